/** What the live test runs:  preview.mjs ADDRESS PATH VALUE COUNT. Views, sets, and prints what it saw. */

import { Preview } from "../src/browser.js";

const [address, path, value, count] = process.argv.slice(2);
const preview = new Preview(address, { codecs: ["jpeg"] });
await preview.ready;
const before = await preview.get(path);
const { seq, params } = await preview.set({ [path]: Number(value) });
const frames = [];
for await (const frame of preview) {
  frames.push({ seq: frame.seq, enc: frame.enc, type: frame.type, shape: frame.shape, params: frame.params, start: Array.from(frame.bytes.subarray(0, 2)) });
  if (frames.length === Number(count)) break;
}
console.log(JSON.stringify({ before, seq, params, frames, outputs: preview.outputs, malformed: preview.malformed }));
