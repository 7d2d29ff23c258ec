/** What a stream delivers, live in the terminal:  node stats.mjs [ENDPOINT] [STREAM] */

import { Subscriber } from "../src/index.js";

const [endpoint = "tcp://127.0.0.1:5555", stream = "live"] = process.argv.slice(2);
const frames = new Subscriber(endpoint, { stream, follow: true });
/** @type {{at: number, age: number, latency: number}[]} */
let recent = [];
let last = "";

frames.on("run", (run) => console.log(`\nthe publisher was restarted: run ${run}`));
frames.on("end", ({ reason }) => console.log(`\nthe run has ended: ${reason}`));

const timer = setInterval(() => {
  recent = recent.filter(({ at }) => performance.now() - at < 2000);
  const { lost, dropped, skipped, malformed } = frames.counters;
  const middle = (/** @type {number[]} */ values) => (values.sort((a, b) => a - b)[values.length >> 1] ?? NaN).toFixed(1);
  const state = frames.alive ? (frames.beat?.state ?? "alive") : frames.silentMs === Infinity ? "nobody there yet" : `silent for ${(frames.silentMs / 1000).toFixed(1)} s`;
  const line =
    `${state}  ${(recent.length / 2).toFixed(1)} fps  age ${middle(recent.map(({ age }) => age))} ms  latency ${middle(recent.map(({ latency }) => latency))} ms  ` +
    `${last}  lost ${lost}  dropped ${dropped}  passed over ${skipped}  malformed ${malformed}`;
  process.stdout.write(process.stdout.isTTY ? `\r\x1b[K${line.slice(0, process.stdout.columns - 1)}` : `${line}\n`);
}, 500);

process.on("SIGINT", () => {
  clearInterval(timer);
  frames.close();
});

for await (const frame of frames) {
  recent.push({ at: performance.now(), age: frame.ageMs, latency: frame.latencyMs });
  last = `seq ${frame.seq} ${frame.type} ${frame.enc} ${frame.shape.join("x")}`;
}
