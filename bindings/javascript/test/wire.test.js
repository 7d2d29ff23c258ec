import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";

import { Frame, OverwrittenError, VersionError, WireError } from "../src/index.js";
import { elements } from "../src/frame.js";
import { Rings } from "../src/shm.js";
import { Tally } from "../src/tally.js";
import { unpack } from "../src/unpack.js";
import { checkHeader, checkParts, topic } from "../src/wire.js";
import { index, parts, recorded } from "./golden.js";

function decode(name) {
  const [head, header, ...payload] = parts(name);
  if (header === undefined || payload.length > 8) throw new WireError("", "parts");
  if (header.length > 65536) throw new WireError("", "header");
  const found = checkHeader(unpack(header));
  if (Buffer.from(head).toString() !== topic(found.stream)) throw new WireError("stream", "topic");
  if (found.kind === "frame") checkParts(found, payload);
  return found.kind === "frame" ? new Frame(found, payload, { unpack }) : found;
}

const plain = (value) => (typeof value === "bigint" ? Number(value) : value);

for (const { file, header, kind, value, sha256, first } of index.messages)
  test(`${file} is read as recorded`, () => {
    const found = decode(file);
    if (kind !== "frame") assert.equal(found.kind, kind);
    for (const [key, expected] of Object.entries(header)) {
      if (key === "age_ms") assert.equal(found.ageMs, expected);
      else if (key === "size") assert.deepEqual(found.parts.map((part) => part.byteLength), expected);
      else if (key === "shm") assert.deepEqual({ ...found.shm, mark: Number(found.shm.mark) }, expected);
      else assert.deepEqual(plain(found[key]), expected, key);
    }
    if (sha256 && found.enc === "raw") {
      const bytes = found.dtype === "float16" ? found.bytes : new Uint8Array(found.array().slice().buffer);
      assert.equal(createHash("sha256").update(bytes).digest("hex"), sha256);
      assert.deepEqual(Array.from(found.array().slice(0, 8)), first);
    }
    if (value === undefined) return;
    if (found.type !== "Pose") assert.deepEqual(found.value(), value);
    else {
      const pose = found.value();
      assert.deepEqual({ n: pose.n, size: pose.size, stability: pose.stability }, { n: value.n, size: value.size, stability: value.stability });
      assert.deepEqual(Array.from(pose.people), value.people.flat(2));
    }
  });

test("times keep every digit", () => {
  const expected = index.messages.find(({ file }) => file === "frame_big_numbers.bin").header;
  const found = decode("frame_big_numbers.bin");
  assert.equal(typeof found.born, "bigint");
  assert.equal(String(found.sent - found.born), String(BigInt(expected.age_ms * 1e6)));
});

for (const { file, key } of index.refused)
  test(`${file} is refused`, () => {
    assert.throws(() => decode(file), (error) => error instanceof WireError && (!key || !error.key || error.key.startsWith(key.split(".")[0])));
    if (file === "bad_version.bin") assert.throws(() => decode(file), VersionError);
  });

for (const { file } of index.refused_values.filter(({ file }) => !file.includes("png")))
  test(`${file}: the value is refused`, () => {
    const found = decode(file);
    assert.throws(() => found.value(), WireError);
  });

test("pictures in files and video are handed on as bytes, and have no elements", () => {
  for (const [name, head] of [["image_jpeg.bin", [0xff, 0xd8]], ["image_png.bin", [0x89, 0x50]], ["image_h264_key.bin", [0, 0, 0, 1]]]) {
    const found = decode(name);
    assert.deepEqual(Array.from(found.bytes.subarray(0, head.length)), head);
    assert.throws(() => found.array(), WireError);
  }
});

test("half floats are widened exactly", () => {
  const halves = [0x0000, 0x8000, 0x3c00, 0xc000, 0x7bff, 0x0001, 0x03ff, 0x0400, 0x7c00, 0xfc00, 0x3555];
  const expected = [0, -0, 1, -2, 65504, 2 ** -24, 1023 * 2 ** -24, 2 ** -14, Infinity, -Infinity, 0.333251953125];
  const bytes = new Uint8Array(new Uint16Array(halves).buffer);
  assert.deepEqual(Array.from(elements("float16", bytes)), expected);
  assert.ok(Number.isNaN(elements("float16", Uint8Array.of(0x01, 0x7c))[0]));
});

test("elements at an odd place in memory are read all the same", () => {
  const bytes = new Uint8Array(13);
  new DataView(bytes.buffer).setFloat32(1, 1.5, true);
  new DataView(bytes.buffer).setFloat32(5, -2.25, true);
  assert.deepEqual(Array.from(elements("float32", bytes.subarray(1, 9))), [1.5, -2.25]);
});

test("a frame in shared memory is copied while its mark stands, and refused after", { skip: process.platform !== "linux" && "reads /dev/shm" }, () => {
  const folder = mkdtempSync(join(tmpdir(), "ring-"));
  try {
    writeFileSync(join(folder, index.ring.name), recorded(index.ring.file));
    const rings = new Rings(folder);
    const entry = index.messages.find(({ file }) => file === "image_shm.bin");
    const found = decode("image_shm.bin");
    assert.equal(createHash("sha256").update(rings.copy(found.shm)).digest("hex"), entry.sha256);
    assert.throws(() => rings.copy(decode("image_shm_gone.bin").shm), OverwrittenError);
    assert.throws(() => rings.copy({ ...found.shm, offset: 1 << 20 }), WireError);
    rings.close();
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test("gaps are told apart: lost on the way, dropped by the graph, restarted", () => {
  const tally = new Tally();
  const frame = (run, n, seq, epoch = 0) => tally.add({ kind: "frame", run, n, seq, epoch });
  assert.deepEqual(frame("a", 7, 10), { lost: 0, dropped: 0, restarted: false }); // joined late: nothing is missing
  assert.deepEqual(frame("a", 8, 13), { lost: 0, dropped: 2, restarted: false });
  assert.deepEqual(frame("a", 10, 15), { lost: 1, dropped: 0, restarted: false });
  assert.deepEqual(tally.add({ kind: "beat", run: "a", n: 14 }), { lost: 3, dropped: 0, restarted: false });
  assert.deepEqual(frame("a", 15, 21), { lost: 1, dropped: 1, restarted: false }); // 4 of 5 steps are the lost ones
  assert.deepEqual(frame("a", 16, 40, 1), { lost: 0, dropped: 0, restarted: false }); // another epoch counts anew
  assert.deepEqual(frame("b", 0, 0), { lost: 0, dropped: 0, restarted: true });
  assert.deepEqual([tally.frames, tally.lost, tally.dropped, tally.restarts], [6, 5, 3, 1]);
});
