/** MessagePack to values, bounded by the length of the data; what is no UTF-8 is refused (the decoder itself would let it pass). */

import { decode } from "@msgpack/msgpack";

import { WireError } from "./errors.js";

const utf8 = new TextDecoder("utf-8", { fatal: true });

/** @param {Uint8Array} bytes @returns {unknown} */
export function unpack(bytes) {
  const plain = new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength); // a Buffer would give Buffers
  const most = Math.max(plain.byteLength, 1);
  try {
    checkTexts(plain);
    return decode(plain, {
      useBigInt64: true, maxStrLength: most, maxBinLength: most, maxArrayLength: most, maxMapLength: most, maxExtLength: 0,
      mapKeyConverter: textKey,
    }); // prettier-ignore
  } catch (error) {
    if (error instanceof WireError) throw error;
    throw new WireError("", `this is no MessagePack: ${error instanceof Error ? error.message.slice(0, 120) : error}`);
  }
}

/** @param {unknown} key @returns {string} */
function textKey(key) {
  if (typeof key !== "string") throw new WireError("", "a key that is no text");
  return key;
}

/**
 * Walk over all values, flat, and look at the texts. Throws where data ends early or a text is no UTF-8.
 *
 * @param {Uint8Array} bytes
 */
function checkTexts(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let at = 0;
  let todo = 1;
  const length = (/** @type {number} */ width) => {
    const value = width === 1 ? view.getUint8(at) : width === 2 ? view.getUint16(at) : view.getUint32(at);
    at += width;
    return value;
  };
  const text = (/** @type {number} */ size) => {
    if (at + size > bytes.length) throw new RangeError("a text that ends in the middle");
    utf8.decode(bytes.subarray(at, at + size));
    at += size;
  };
  for (; todo > 0; todo--) {
    const tag = view.getUint8(at++);
    if (tag <= 0x7f || tag >= 0xe0 || tag === 0xc0 || tag === 0xc2 || tag === 0xc3) continue;
    if (tag <= 0x8f) todo += 2 * (tag & 15);
    else if (tag <= 0x9f) todo += tag & 15;
    else if (tag <= 0xbf) text(tag & 31);
    else if (tag >= 0xc4 && tag <= 0xc6) {
      const size = length(1 << (tag - 0xc4)); // moves `at` itself
      at += size;
    }
    else if (tag >= 0xca && tag <= 0xcb) at += 4 << (tag - 0xca);
    else if (tag >= 0xcc && tag <= 0xcf) at += 1 << (tag - 0xcc);
    else if (tag >= 0xd0 && tag <= 0xd3) at += 1 << (tag - 0xd0);
    else if (tag >= 0xd9 && tag <= 0xdb) text(length(1 << (tag - 0xd9)));
    else if (tag === 0xdc || tag === 0xdd) todo += length(tag === 0xdc ? 2 : 4);
    else if (tag === 0xde || tag === 0xdf) todo += 2 * length(tag === 0xde ? 2 : 4);
    else throw new WireError("", "an extension type, which is not part of the format");
  }
}
