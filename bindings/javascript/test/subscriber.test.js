import assert from "node:assert/strict";
import { once } from "node:events";
import { test } from "node:test";

import { encode } from "@msgpack/msgpack";
import * as zmq from "zeromq";

import { AfterimageError, Subscriber, VersionError } from "../src/index.js";
import { index, parts } from "./golden.js";

const RUN = "0123456789abcdef";
const now = () => BigInt(Date.now()) * 1_000_000n;

/** A publisher as docs/wire.md describes it, on a port of its own. */
async function publisher(t) {
  const socket = new zmq.XPublisher({ linger: 0, sendHighWaterMark: 1000 });
  await socket.bind("tcp://127.0.0.1:0");
  const common = (kind, n) => ({ v: 1, kind, stream: "live", run: pub.run, n, sent: now() });
  const pub = {
    run: RUN,
    endpoint: socket.lastEndpoint,
    joined: async () => {
      for (;;) {
        const [data] = await socket.receive();
        if (data[0] === 1) return;
      }
    },
    frame: (n, seq = n, more = {}, size = 12) =>
      socket.send(["live/", Buffer.from(encode({ ...common("frame", n), seq, epoch: 0, pts: BigInt(n), born: now() - 5_000_000n, params: 0, flags: 1,
        type: "Image", enc: "raw", dtype: "uint8", shape: [1, size / 3, 3], layout: "hwc", color: { space: "srgb", order: "rgb" }, size: [size], ...more },
        { useBigInt64: true })), Buffer.alloc(size, n)]), // prettier-ignore
    beat: (n) => socket.send(["live/", Buffer.from(encode({ ...common("beat", n), fps: 24.5, state: "online" }, { useBigInt64: true }))]),
    end: (n) => socket.send(["live/", Buffer.from(encode({ ...common("end", n), reason: "eof" }, { useBigInt64: true }))]),
    raw: (message) => socket.send(message),
  };
  t.after(() => socket.close());
  return pub;
}

/** Until the subscriber has counted what was sent: it receives on a thread of its own. */
async function counted(frames, ready) {
  const until = Date.now() + 10_000;
  while (!ready(frames.counters)) {
    assert.ok(Date.now() < until, `only ${JSON.stringify(frames.counters)}`);
    await new Promise(setImmediate);
  }
}

test("every frame in order, gaps noticed, and the loop ends with the run", async (t) => {
  const pub = await publisher(t);
  const frames = new Subscriber(pub.endpoint, { latest: false });
  t.after(() => frames.close());
  await pub.joined();
  for (const [n, seq] of [[0, 5], [1, 8], [4, 11]]) await pub.frame(n, seq);
  await pub.end(6);
  const seen = [];
  for await (const frame of frames) {
    seen.push([frame.n, frame.seq, frame.lost, frame.dropped, frame.array()[0]]);
    assert.equal(frame.ageMs > 4 && frame.ageMs < 5000, true);
    assert.equal(frame.latencyMs >= frame.ageMs, true);
    assert.equal(typeof frame.born, "bigint");
  }
  assert.deepEqual(seen, [[0, 5, 0, 0, 0], [1, 8, 0, 2, 1], [4, 11, 2, 0, 4]]);
  assert.equal(frames.end.reason, "eof");
  assert.deepEqual({ ...frames.counters }, { frames: 3, lost: 3, dropped: 2, skipped: 0, malformed: 0, restarts: 0 });
});

test("a program that was busy gets the newest frame, not the oldest", async (t) => {
  const pub = await publisher(t);
  const frames = new Subscriber(pub.endpoint);
  t.after(() => frames.close());
  await pub.joined();
  await pub.frame(0);
  assert.equal((await frames.next()).value.n, 0);
  for (let n = 1; n < 40; n++) await pub.frame(n, n, {}, 60_000); // more than the buffers of a socket hold in one piece
  const since = performance.now();
  while (frames.counters.frames < 40 && performance.now() - since < 10_000); // this thread does nothing else meanwhile
  const { value } = await frames.next();
  assert.deepEqual([value.n, value.skipped, value.lost], [39, 38, 0]);
});

test("a bounded queue lets the oldest go and says so", async (t) => {
  const pub = await publisher(t);
  const frames = new Subscriber(pub.endpoint, { latest: false, queue: 3 });
  t.after(() => frames.close());
  await pub.joined();
  for (let n = 0; n < 10; n++) await pub.frame(n);
  await counted(frames, ({ frames }) => frames === 10);
  const seen = [await frames.read(), await frames.read(), await frames.read()].map(({ n, skipped }) => [n, skipped]);
  assert.deepEqual(seen, [[7, 7], [8, 0], [9, 0]]);
  assert.equal(frames.counters.skipped, 7);
});

test("read gives up in time, and takes no frame with it", async (t) => {
  const pub = await publisher(t);
  const frames = new Subscriber(pub.endpoint);
  t.after(() => frames.close());
  await pub.joined();
  assert.equal(await frames.read(20), null);
  await pub.frame(0);
  await pub.frame(1);
  await counted(frames, ({ frames }) => frames === 2);
  assert.equal((await frames.read(5000)).n, 1);
  assert.equal(await frames.read(1), null);
  await frames.close();
  assert.equal(await frames.read(1), null);
});

test("heartbeats say alive while no frames come", async (t) => {
  const pub = await publisher(t);
  const frames = new Subscriber(pub.endpoint);
  t.after(() => frames.close());
  assert.equal(frames.alive, false);
  assert.equal(frames.silentMs, Infinity);
  await pub.joined();
  const heard = once(frames, "beat");
  await pub.beat(3);
  const [beat] = await heard;
  assert.deepEqual([beat.fps, beat.state, frames.alive, frames.beat.n], [24.5, "online", true, 3]);
});

test("a restarted publisher is noticed, and followed where that is asked for", async (t) => {
  const pub = await publisher(t);
  const frames = new Subscriber(pub.endpoint, { latest: false, follow: true });
  t.after(() => frames.close());
  await pub.joined();
  await pub.frame(8);
  await pub.end(9);
  pub.run = "fedcba9876543210";
  const run = once(frames, "run");
  await pub.frame(0);
  const seen = [await frames.read(), await frames.read()].map(({ n, lost, restarted }) => [n, lost, restarted]);
  assert.deepEqual(seen, [[8, 0, false], [0, 0, true]]);
  assert.deepEqual(await run, [pub.run]);
  assert.equal(frames.alive, true);
});

test("malformed messages are counted and left out", async (t) => {
  const pub = await publisher(t);
  const frames = new Subscriber(pub.endpoint, { latest: false });
  t.after(() => frames.close());
  const why = [];
  frames.on("malformed", (message) => why.push(message));
  await pub.joined();
  const bad = index.refused.filter(({ file }) => file !== "bad_version.bin");
  let sent = 0;
  for (const { file } of bad) {
    const message = parts(file);
    if (!Buffer.from(message[0]).toString().startsWith("live/")) continue; // not what we have subscribed to: ZeroMQ keeps it away
    await pub.raw(message);
    sent++;
  }
  await pub.frame(0);
  assert.equal((await frames.read(10_000)).n, 0);
  assert.equal(frames.counters.malformed, sent);
  assert.equal(why.length, sent);
});

test("a version of the future ends the subscription, with what to do", async (t) => {
  const pub = await publisher(t);
  const frames = new Subscriber(pub.endpoint);
  t.after(() => frames.close());
  await pub.joined();
  const waiting = frames.next();
  await pub.raw(parts("bad_version.bin"));
  await assert.rejects(waiting, (error) => error instanceof VersionError && /update the reader/.test(error.message));
});

test("leaving the loop closes the subscription", async (t) => {
  const pub = await publisher(t);
  const frames = new Subscriber(pub.endpoint);
  t.after(() => frames.close());
  await pub.joined();
  await pub.frame(0);
  for await (const frame of frames) {
    assert.equal(frame.n, 0);
    break;
  }
  assert.deepEqual(await frames.next(), { done: true, value: undefined });
});

test("options that make no sense are refused at once", () => {
  assert.throws(() => new Subscriber("127.0.0.1:5555"), AfterimageError);
  assert.throws(() => new Subscriber("tcp://127.0.0.1:5555", { stream: "a/b" }), AfterimageError);
  assert.throws(() => new Subscriber("tcp://127.0.0.1:5555", { latest: false, queue: 0 }), AfterimageError);
});
