/** The recorded messages of bindings/golden. */

import { readFileSync } from "node:fs";

const folder = new URL("../../golden/", import.meta.url);

/** @param {string} name @returns {Buffer} */
export const recorded = (name) => readFileSync(new URL(name, folder));

export const index = JSON.parse(recorded("index.json").toString());

/** @param {string} name @returns {Uint8Array[]} the parts of a recorded message */
export function parts(name) {
  const data = recorded(name);
  let at = 4;
  return Array.from({ length: data.readUInt32LE(0) }, () => {
    const size = data.readUInt32LE(at);
    const part = Uint8Array.from(data.subarray(at + 4, at + 4 + size));
    at += 4 + size;
    return part;
  });
}
