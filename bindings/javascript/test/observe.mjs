/**
 * What the conformance test runs:  observe.mjs ENDPOINT STREAM CONTROL PATH VALUE
 * Prints every frame until the run ends; after the fifth it sets a parameter and prints the receipt.
 */

import { Control, Subscriber } from "../src/index.js";

const [endpoint, stream, where, path, value] = process.argv.slice(2);
const frames = new Subscriber(endpoint, { stream, latest: false, queue: 1000 });
const control = new Control(where);
let changed = null;
let count = 0;

function fnv(bytes) {
  let low = 0x84222325; // FNV-1a of 64 bits in two halves: BigInt would be too slow for pictures
  let high = 0xcbf29ce4;
  for (const byte of bytes) {
    low = (low ^ byte) >>> 0;
    const lowest = (low & 0xffff) * 0x1b3;
    const middle = (low >>> 16) * 0x1b3 + (lowest >>> 16);
    high = (Math.imul(high, 0x1b3) + (low << 8) + Math.floor(middle / 0x10000)) >>> 0;
    low = ((middle << 16) | (lowest & 0xffff)) >>> 0;
  }
  return high.toString(16).padStart(8, "0") + low.toString(16).padStart(8, "0");
}

async function change() {
  const before = await control.get(path);
  const receipt = control.set({ [path]: Number(value) });
  await receipt.accepted;
  const { seq, epoch, params } = await receipt;
  console.log(JSON.stringify({ receipt: { seq, epoch, params }, before, after: await control.get(path) }));
}

for await (const frame of frames) {
  const { seq, n, epoch, params, lost, dropped, shape, lat } = frame;
  const times = { lat, age_ms: frame.ageMs, latency_ms: frame.latencyMs };
  console.log(JSON.stringify({ seq, n, epoch, params, lost, dropped, shape, fnv: fnv(frame.bytes), ...times }));
  if (++count === 5) changed = change();
}
await changed;
console.log(JSON.stringify({ end: frames.end.reason, ...frames.counters }));
control.close();
