/** What the agreement test runs:  verdicts.mjs FILE  with many recorded messages behind each other. Prints 1 for each that is taken, else 0. */

import { readFileSync } from "node:fs";

import { Frame, WireError } from "../src/index.js";
import { unpack } from "../src/unpack.js";
import { checkHeader, checkParts, MAX_HEADER, MAX_PARTS, topic } from "../src/wire.js";

const data = readFileSync(process.argv[2]);

function taken([head, header, ...payload]) {
  if (header === undefined || payload.length > MAX_PARTS || header.length > MAX_HEADER) return 0;
  try {
    const found = checkHeader(unpack(header));
    if (Buffer.from(head).toString("latin1") !== topic(found.stream)) return 0;
    if (found.kind !== "frame") return payload.length ? 0 : 1;
    checkParts(found, payload);
    if (found.enc === "msgpack") new Frame(found, payload, { unpack }).value();
    return 1;
  } catch (error) {
    if (error instanceof WireError) return 0;
    throw error;
  }
}

let verdicts = "";
for (let at = 0; at < data.length; ) {
  const count = data.readUInt32LE(at);
  const parts = [];
  at += 4;
  for (let i = 0; i < count; i++) {
    const size = data.readUInt32LE(at);
    parts.push(Uint8Array.from(data.subarray(at + 4, at + 4 + size)));
    at += 4 + size;
  }
  verdicts += taken(parts);
}
console.log(verdicts);
