import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { test } from "node:test";
import { promisify } from "node:util";

import { encode } from "@msgpack/msgpack";
import * as zmq from "zeromq";

import { ConnectionError, Control, RefusedError, TimeoutError } from "../src/index.js";
import { unpack } from "../src/unpack.js";

/** A server as docs/control.md describes it: `answer(request, reply)` says what is sent back. */
async function server(answer) {
  const socket = new zmq.Router({ linger: 0 });
  await socket.bind("tcp://127.0.0.1:0");
  const asked = [];
  (async () => {
    try {
      for await (const [identity, data] of socket) {
        const request = unpack(data);
        asked.push(request);
        for (const message of answer(request) ?? []) await socket.send([identity, Buffer.from(encode({ v: 1, id: request.id, ...message }, { useBigInt64: true }))]);
      }
    } catch (error) {
      if (!socket.closed) throw error;
    }
  })();
  return { endpoint: socket.lastEndpoint, asked, close: () => socket.close() };
}

async function pair(t, answer, options) {
  const far = await server(answer);
  const near = new Control(far.endpoint, options);
  t.after(() => (near.close(), far.close()));
  return { far, near };
}

const landed = { receipt: 7, seq: 123n, epoch: 2, params: 9 };

test("a change is accepted, then applied at a frame", async (t) => {
  const { far, near } = await pair(t, () => [{ kind: "accepted", receipt: 7 }, { kind: "applied", ...landed }]);
  const receipt = near.set({ "paint.steps": 4, "paint.strength": 0.5 });
  assert.equal((await receipt.accepted).receipt, 7);
  const { seq, epoch, params } = await receipt.applied;
  assert.deepEqual([seq, epoch, params], [123, 2, 9]);
  assert.equal((await receipt).seq, 123); // a receipt can be awaited itself
  assert.equal((await receipt.done).seq, 123);
  assert.deepEqual(far.asked, [{ v: 1, id: 1, op: "set", changes: { "paint.steps": 4, "paint.strength": 0.5 } }]);
});

test("a ramp is done after it was applied", async (t) => {
  const { far, near } = await pair(t, () => [{ kind: "accepted", receipt: 7 }, { kind: "applied", ...landed }, { kind: "done", ...landed, seq: 147 }]);
  const receipt = near.ramp({ "paint.strength": 1 }, { frames: 24, curve: "ease" });
  assert.equal((await receipt.applied).seq, 123);
  assert.equal((await receipt.done).seq, 147);
  assert.equal(near.open, 0);
  assert.deepEqual([far.asked[0].frames, far.asked[0].curve], [24, "ease"]);
});

test("a refusal carries the reasons", async (t) => {
  const refused = { kind: "refused", error: { type: "ParamError", message: "cannot be set", expected: "1 to 60", found: "99", fix: "see describe" }, problems: { "paint.steps": "at most 60" } };
  const { near } = await pair(t, () => [refused]);
  const receipt = near.set({ "paint.steps": 99 });
  for (const promise of [receipt.accepted, receipt.applied, receipt.done])
    await assert.rejects(promise, (error) => error instanceof RefusedError && !error.failed && error.type === "ParamError" && error.problems["paint.steps"] === "at most 60" && /at most 60/.test(error.message));
});

test("what was accepted may still fail", async (t) => {
  const { near } = await pair(t, () => [{ kind: "accepted", receipt: 1 }, { kind: "failed", error: { message: "the run ended" } }]);
  const receipt = near.reset("again");
  assert.equal((await receipt.accepted).receipt, 1);
  await assert.rejects(receipt.applied, (error) => error instanceof RefusedError && error.failed);
});

test("answers find their questions in whatever order they come", async (t) => {
  let first;
  const { near } = await pair(t, (request) => {
    if (request.op === "hello") {
      first = request.id;
      return [];
    }
    return [{ kind: "answer", values: { "paint.steps": 4 }, params: 1 }, { id: first, kind: "answer", engine: "1" }];
  });
  const hello = near.hello();
  assert.equal(await near.get("paint.steps"), 4);
  assert.equal((await hello).engine, "1");
});

test("get: one value, several, all", async (t) => {
  const values = { "a.x": 1, "a.y": "two" };
  const { far, near } = await pair(t, ({ paths }) => [{ kind: "answer", values: paths ? Object.fromEntries(paths.map((path) => [path, values[path]])) : values }]);
  assert.equal(await near.get("a.x"), 1);
  assert.deepEqual(await near.get(["a.y"]), { "a.y": "two" });
  assert.deepEqual(await near.get(), values);
  assert.deepEqual(far.asked.map(({ paths }) => paths), [["a.x"], ["a.y"], undefined]);
});

test("a watch is a loop; leaving it ends the watch", async (t) => {
  const { far, near } = await pair(t, ({ op }) => (op === "watch" ? [{ kind: "answer" }, { kind: "stats", fps: 24 }, { kind: "stats", fps: 25 }] : [{ kind: "answer" }]));
  const seen = [];
  for await (const { fps } of near.watch({ what: ["stats"], everyMs: 100 })) {
    seen.push(fps);
    if (seen.length === 2) break;
  }
  assert.deepEqual(seen, [24, 25]);
  assert.deepEqual(far.asked.map(({ op, every_ms }) => [op, every_ms]), [["watch", 100], ["unwatch", undefined]]);
});

test("snapshot gives bytes", async (t) => {
  const { near } = await pair(t, () => [{ kind: "answer", seq: 3, epoch: 0, data: Uint8Array.of(1, 2), format: "png" }]);
  assert.deepEqual(await near.snapshot("paint.image"), { seq: 3, epoch: 0, data: Uint8Array.of(1, 2), format: "png" });
});

test("no answer in time is a TimeoutError, and later answers hurt nobody", async (t) => {
  const { near } = await pair(t, () => [], { timeoutMs: 30 });
  await assert.rejects(near.stats(), (error) => error instanceof TimeoutError && /control at this address/.test(error.message));
  assert.equal(near.open, 0);
});

test("a connection that ends rejects what is open, with the truth about it", async (t) => {
  const { far, near } = await pair(t, () => [{ kind: "accepted", receipt: 1 }]);
  const receipt = near.pause();
  await receipt.accepted;
  far.close();
  await assert.rejects(receipt.applied, (error) => error instanceof ConnectionError && /unknown/.test(error.message));
});

test("a closed client says so", async (t) => {
  const { near } = await pair(t, () => []);
  const open = near.hello();
  near.close();
  await assert.rejects(open, ConnectionError);
  await assert.rejects(near.get("a.b"), ConnectionError);
});

test("what is refused before it is sent is a rejection like others, and ends no program", async (t) => {
  const { near } = await pair(t, () => []);
  await assert.rejects(async () => near.set({ "paint.prompt": "x".repeat(1 << 21) }), /at most 1048576 bytes/);
  await assert.rejects(near.get("x".repeat(1 << 21)), /at most 1048576 bytes/);
  near.close();
  await assert.rejects(async () => near.set({ "paint.hold": 1 }), ConnectionError);
});

test("a refusal that nobody looks at is heard of, as of any rejected promise", async (t) => {
  const { far } = await pair(t, () => [{ kind: "refused", error: { message: "no" } }]);
  const program = `import { Control } from ${JSON.stringify(new URL("../src/index.js", import.meta.url).href)};
    new Control("${far.endpoint}").set({ "a.b": 1 });`;
  const run = promisify(execFile)(process.execPath, ["--input-type=module", "-e", program]);
  await assert.rejects(run, ({ stderr }) => /RefusedError: no/.test(stderr));
});
