/** @param {Uint8Array} bytes @returns {unknown} */
export function unpack(bytes: Uint8Array): unknown;
