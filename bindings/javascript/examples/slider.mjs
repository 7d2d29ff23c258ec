/**
 * A parameter under the arrow keys:  node slider.mjs NODE.PARAM [ENDPOINT]
 *
 * Left and right move it within the range that the graph says; each change shows the frame it landed on. q ends.
 */

import { emitKeypressEvents } from "node:readline";

import { Control, RefusedError } from "../src/index.js";

const [path, endpoint] = process.argv.slice(2);
if (!path?.includes(".")) {
  console.error("usage: node slider.mjs NODE.PARAM [ENDPOINT]");
  process.exit(2);
}
const control = new Control(endpoint);
const [node, param] = path.split(".");
const facts = (await control.describe()).nodes[node]?.params[param];
if (typeof facts?.value !== "number") {
  console.error(facts ? `${path} is no number` : `there is no ${path}`);
  process.exit(1);
}
const { schema } = facts;
const low = schema.minimum ?? schema.exclusiveMinimum ?? 0;
const high = schema.maximum ?? schema.exclusiveMaximum ?? 1;
const step = schema.type === "integer" ? 1 : (high - low) / 50;
let value = facts.value;
let note = "arrow keys move it, q ends";

function draw() {
  const width = 40;
  const at = Math.round((width * (value - low)) / (high - low || 1));
  process.stdout.write(`\r\x1b[K${path} ${String(low)} [${"=".repeat(Math.max(0, at))}${" ".repeat(Math.max(0, width - at))}] ${high}  ${+value.toFixed(3)}  ${note}`);
}

/** @param {number} wanted */
async function move(wanted) {
  value = Math.min(high, Math.max(low, schema.type === "integer" ? Math.round(wanted) : wanted));
  draw();
  try {
    const { seq } = await control.set({ [path]: value });
    note = `landed at frame ${seq}`;
  } catch (error) {
    note = error instanceof RefusedError ? error.message : String(error);
  }
  draw();
}

emitKeypressEvents(process.stdin);
if (process.stdin.isTTY) process.stdin.setRawMode(true);
process.stdin.on("keypress", (_, key) => {
  if (key.name === "right") move(value + step);
  else if (key.name === "left") move(value - step);
  else if (key.name === "q" || (key.ctrl && key.name === "c")) {
    process.stdin.setRawMode?.(false);
    process.stdin.pause();
    control.close();
    process.stdout.write("\n");
  }
});
draw();
