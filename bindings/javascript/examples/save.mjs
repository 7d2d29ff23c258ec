/**
 * Save frames into files:  node save.mjs ENDPOINT STREAM FOLDER [COUNT]
 *
 * JPEG and PNG as they come; H.264 as one stream that players open; raw pictures of 8 bits as PPM; plain values as JSON.
 */

import { mkdir, open, writeFile } from "node:fs/promises";
import { join } from "node:path";

import { OverwrittenError, Subscriber } from "../src/index.js";

const [endpoint, stream, folder, most = "10"] = process.argv.slice(2);
if (!folder) {
  console.error("usage: node save.mjs ENDPOINT STREAM FOLDER [COUNT]");
  process.exit(2);
}
await mkdir(folder, { recursive: true });
const frames = new Subscriber(endpoint, { stream, latest: false }); // all of them, in order
/** @type {{file?: import("node:fs/promises").FileHandle}} */
const video = {};
let count = 0;

for await (const frame of frames) {
  try {
    await save(frame);
    count++;
  } catch (error) {
    if (!(error instanceof OverwrittenError)) throw error; // shared memory, and we were too slow: the next one
  }
  if (count === Number(most)) break;
}
await video.file?.close();
console.log(`${count} frames in ${folder}, ${frames.counters.lost} lost on the way`);

/** @param {import("../src/index.js").Frame} frame */
async function save(frame) {
  const name = join(folder, String(frame.seq).padStart(6, "0"));
  if (frame.enc === "jpeg" || frame.enc === "png") return writeFile(`${name}.${frame.enc}`, frame.bytes);
  if (frame.enc === "h264") {
    if (!video.file && !frame.key) throw new OverwrittenError("waiting for a key frame");
    video.file ??= await open(join(folder, "video.h264"), "w");
    await video.file.write(frame.bytes);
    return;
  }
  if (frame.enc === "msgpack") return writeFile(`${name}.json`, JSON.stringify(frame.value(), (_, value) => (ArrayBuffer.isView(value) ? Array.from(/** @type {any} */ (value)) : value)));
  if (frame.type !== "Image" || frame.dtype !== "uint8" || frame.layout !== "hwc") return writeFile(`${name}.${frame.dtype}`, frame.bytes);
  const [height, width] = frame.shape;
  const rgb = Uint8Array.from(frame.bytes);
  if (frame.color.order === "bgr") for (let i = 0; i < rgb.length; i += 3) [rgb[i], rgb[i + 2]] = [rgb[i + 2], rgb[i]];
  return writeFile(`${name}.ppm`, Buffer.concat([Buffer.from(`P6\n${width} ${height}\n255\n`), rgb]));
}
