/**
 * The wire format, version 1: a header checked field by field (docs/wire.md is the contract).
 *
 * What `checkHeader` returns has been checked whole, before anything of the size that the message claims is allocated. Times of
 * nanoseconds since 1970 do not fit into a JavaScript number and are `bigint`; counters are numbers. Knows maps and bytes, no sockets.
 */

import { VersionError, WireError } from "./errors.js";

export const VERSION = 1;
export const MAX_HEADER = 64 << 10;
export const MAX_PARTS = 8;
export const MAX_BYTES = 256 << 20;
export const MAX_PLAIN = 1 << 20;
const MAX_SIDE = 65_535;
const MAX_INT64 = (1n << 63n) - 1n;

/** Flags of a frame. */
export const KEY = 1;
export const DISCONTINUITY = 2;
export const DEGRADED = 4;

const NAME = /^[A-Za-z0-9_.-]{1,64}$/;
const RUN = /^[0-9a-f]{16}$/;
const STATES = ["loading", "online", "degraded_input", "degraded_inference", "error"];
const REASONS = ["eof", "stopped", "error"];
/** @type {Record<string, number>} */
const ITEM = { uint8: 1, float16: 2, float32: 4, int32: 4 };
/** @type {Record<string, string[]>} */
const ENCODINGS = {
  Image: ["raw", "jpeg", "png", "h264", "shm"],
  Mask: ["raw", "png", "shm"],
  Latent: ["raw", "shm"],
  Pose: ["msgpack"],
  Prompt: ["msgpack"],
  Scalar: ["msgpack"],
  Text: ["msgpack"],
  Data: ["msgpack"],
};

/**
 * @typedef {"Image" | "Mask" | "Latent" | "Pose" | "Prompt" | "Scalar" | "Text" | "Data"} PayloadType
 * @typedef {"raw" | "jpeg" | "png" | "h264" | "msgpack" | "shm"} Encoding
 * @typedef {"uint8" | "float16" | "float32" | "int32"} DType
 * @typedef {{name: string, slot: number, offset: number, bytes: number, mark: bigint}} Shm
 *
 * @typedef {object} FrameHeader
 * @property {"frame"} kind
 * @property {string} stream
 * @property {string} run      changes when the publisher is restarted
 * @property {number} n        frames sent before this one
 * @property {bigint} sent     ns, CLOCK_REALTIME
 * @property {number} seq      the source's ordinal of the frame
 * @property {number} epoch
 * @property {bigint} pts      ns on the graph's clock
 * @property {bigint} born     ns, CLOCK_REALTIME: when it was captured
 * @property {number} params   parameter version
 * @property {number} flags    KEY, DISCONTINUITY, DEGRADED
 * @property {PayloadType} type
 * @property {Encoding} enc
 * @property {DType | ""} dtype
 * @property {number[]} shape
 * @property {"hwc" | "chw" | ""} layout
 * @property {Record<string, string>} color
 * @property {number[]} size
 * @property {Shm | null} shm
 * @property {Record<string, number>} lat
 * @property {Record<string, unknown>} meta
 *
 * @typedef {{kind: "beat", stream: string, run: string, n: number, sent: bigint, fps: number, state: string, meta: Record<string, unknown>}} Beat
 * @typedef {{kind: "end", stream: string, run: string, n: number, sent: bigint, reason: string, meta: Record<string, unknown>}} End
 * @typedef {FrameHeader | Beat | End} Header
 */

/** @param {string} stream @returns {string} the topic of a stream */
export function topic(stream) {
  if (typeof stream !== "string" || !NAME.test(stream)) throw new WireError("stream", `${show(stream)} is no name: 1 to 64 of A-Z a-z 0-9 _ . -`);
  return `${stream}/`;
}

/** @param {string} dtype @param {readonly number[]} shape @returns {number} bytes of an array; exact for every shape that a header may have */
export function arrayBytes(dtype, shape) {
  return shape.reduce((product, side) => product * side, ITEM[dtype]);
}

/**
 * A header's map as a header, every field checked. Throws WireError.
 *
 * @param {unknown} raw  what MessagePack (or JSON) gave
 * @param {{maxBytes?: number}} [limits]
 * @returns {Header}
 */
export function checkHeader(raw, { maxBytes = MAX_BYTES } = {}) {
  if (!isMap(raw)) throw new WireError("", "the header is no map");
  const version = count(raw, "v");
  if (version !== VERSION) throw new VersionError("v", `this reader knows version ${VERSION}, the message is of version ${version}: update the reader`);
  const kind = one(raw, "kind", ["frame", "beat", "end"]);
  const stream = text(raw, "stream");
  const run = text(raw, "run");
  if (!NAME.test(stream)) throw new WireError("stream", `${show(stream)} is no name`);
  if (!RUN.test(run)) throw new WireError("run", `${show(run)} is not 16 hexadecimal digits`);
  const common = { stream, run, n: count(raw, "n"), sent: long(raw, "sent", 0n), meta: /** @type {Record<string, unknown>} */ (plainNumbers(map(raw, "meta"))) };
  if (kind === "beat") return { kind, ...common, fps: number(raw, "fps"), state: one(raw, "state", STATES) };
  if (kind === "end") return { kind, ...common, reason: one(raw, "reason", REASONS) };
  return frameHeader(raw, common, maxBytes);
}

/**
 * That the payload parts are as many and as long as the header says. Throws WireError.
 *
 * @param {FrameHeader} header
 * @param {readonly ArrayBufferView[]} parts
 */
export function checkParts(header, parts) {
  if (parts.length !== header.size.length) throw new WireError("size", `tells of ${header.size.length} payload parts, ${parts.length} came`);
  header.size.forEach((size, i) => {
    if (parts[i].byteLength !== size) throw new WireError("size", `says ${size} bytes, ${parts[i].byteLength} came`);
  });
}

/**
 * @param {Record<string, unknown>} raw
 * @param {{stream: string, run: string, n: number, sent: bigint, meta: Record<string, unknown>}} common
 * @param {number} maxBytes
 * @returns {FrameHeader}
 */
function frameHeader(raw, common, maxBytes) {
  const type = /** @type {PayloadType} */ (one(raw, "type", Object.keys(ENCODINGS)));
  const enc = /** @type {Encoding} */ (text(raw, "enc"));
  if (!ENCODINGS[type].includes(enc)) throw new WireError("enc", `${type} is not stored as ${show(enc)}, but as ${ENCODINGS[type].join(", ")}`);
  /** @type {DType | ""} */
  let dtype = "";
  /** @type {"hwc" | "chw" | ""} */
  let layout = "";
  /** @type {number[]} */
  let shape = [];
  /** @type {Record<string, string>} */
  let color = {};
  if (type === "Image" || type === "Mask" || type === "Latent") {
    dtype = /** @type {DType} */ (one(raw, "dtype", Object.keys(ITEM)));
    shape = counts(raw, "shape", MAX_SIDE, 4);
    if (arrayBytes(dtype, shape) > maxBytes) throw new WireError("shape", `${dtype} [${shape}] is larger than this reader's limit of ${maxBytes} bytes`);
    if (type === "Image") {
      layout = /** @type {"hwc" | "chw"} */ (one(raw, "layout", ["hwc", "chw"]));
      color = colors(raw, enc);
    }
    checkArray(type, enc, dtype, shape, layout);
  }
  const size = counts(raw, "size", maxBytes, MAX_PARTS);
  const total = size.reduce((sum, bytes) => sum + bytes, 0);
  if (total > maxBytes) throw new WireError("size", `${total} bytes are more than this reader's limit of ${maxBytes}`);
  const shm = enc === "shm" ? ring(map(raw, "shm", true)) : null;
  if (shm) {
    if (shm.bytes !== arrayBytes(dtype, shape)) throw new WireError("shm", `${dtype} [${shape}] has ${arrayBytes(dtype, shape)} bytes, ${shm.bytes} are announced`);
    if (size.length) throw new WireError("size", "a frame in shared memory has no payload part");
  } else if (size.length !== 1) {
    throw new WireError("size", `${enc} is one payload part, ${size.length} are announced`);
  } else if (enc === "raw" && size[0] !== arrayBytes(dtype, shape)) {
    throw new WireError("size", `${dtype} [${shape}] has ${arrayBytes(dtype, shape)} bytes, ${size[0]} are announced`);
  } else if (enc === "msgpack" && size[0] > MAX_PLAIN) {
    throw new WireError("size", `${size[0]} bytes of plain values are more than ${MAX_PLAIN}`);
  } else if (size[0] === 0) {
    throw new WireError("size", "an empty payload");
  }
  const lat = map(raw, "lat");
  for (const [node, ms] of Object.entries(lat)) lat[node] = asNumber(`lat.${node}`, ms);
  return {
    kind: "frame", ...common, seq: count(raw, "seq"), epoch: count(raw, "epoch"), pts: long(raw, "pts"), born: long(raw, "born"),
    params: count(raw, "params"), flags: count(raw, "flags", 0xffff), type, enc, dtype, shape, layout, color, size, shm,
    lat: /** @type {Record<string, number>} */ (lat),
  }; // prettier-ignore
}

/** That shape, dtype and layout are those of the payload type. @param {string} type @param {string} enc @param {string} dtype @param {number[]} shape @param {string} layout */
function checkArray(type, enc, dtype, shape, layout) {
  let fits;
  if (type === "Mask") fits = shape.length === 2 && dtype === "uint8";
  else if (type === "Latent") fits = shape.length === 4 && shape[0] === 1 && (dtype === "float16" || dtype === "float32");
  else {
    const three = layout === "hwc" ? shape.length === 3 && shape[2] === 3 : shape.at(-3) === 3 && (shape.length === 3 || (shape.length === 4 && shape[0] === 1));
    fits = three && dtype !== "int32";
    if (["jpeg", "png", "h264"].includes(enc)) fits &&= layout === "hwc" && dtype === "uint8";
  }
  if (!fits || shape.includes(0)) throw new WireError("shape", `${dtype} [${shape}] ${layout} is no ${type} that is stored as ${enc}`);
}

/** @param {Record<string, unknown>} raw @param {string} enc @returns {Record<string, string>} */
function colors(raw, enc) {
  const color = map(raw, "color", true);
  const entries = Object.entries(color);
  if (entries.length > 8 || !entries.every(([, value]) => typeof value === "string" && value.length <= 64)) throw new WireError("color", "is no map of short texts");
  if (color.space !== "srgb" || (color.order !== "rgb" && color.order !== "bgr")) throw new WireError("color", "needs space = srgb, and order = rgb or bgr");
  if (enc === "h264" && (color.matrix !== "bt709" || color.range !== "limited")) throw new WireError("color", "h264 needs matrix = bt709 and range = limited");
  return /** @type {Record<string, string>} */ (color);
}

/** @param {Record<string, unknown>} raw @returns {Shm} */
function ring(raw) {
  const name = text(raw, "name");
  if (!NAME.test(name)) throw new WireError("shm.name", `${show(name)} is no name of a ring`);
  const found = { name, slot: count(raw, "slot", 65_535), offset: count(raw, "offset"), bytes: count(raw, "bytes"), mark: long(raw, "mark", 0n) };
  if (found.offset < 64) throw new WireError("shm.offset", `${found.offset} lies inside the slot's head of 64 bytes`);
  return found;
}

// ------------------------------------------------------------------ reading fields

/** @param {unknown} value @returns {value is Record<string, unknown>} */
export function isMap(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value) && !ArrayBuffer.isView(value) && Object.getPrototypeOf(value) === Object.prototype;
}

/** @param {unknown} value */
function show(value) {
  if (value === undefined || value === null) return "nothing";
  return typeof value === "string" ? JSON.stringify(value.slice(0, 80)) : String(value).slice(0, 80);
}

/** @param {string} key @param {unknown} value @param {string} expected */
function wrong(key, value, expected) {
  return new WireError(key, `expected ${expected}, found ${show(value)}`);
}

/** @param {Record<string, unknown>} raw @param {string} key @param {bigint} [lo] @returns {bigint} */
function long(raw, key, lo = -MAX_INT64 - 1n) {
  const value = raw[key];
  const big = typeof value === "bigint" ? value : Number.isSafeInteger(value) ? BigInt(/** @type {number} */ (value)) : null;
  if (big === null || big < lo || big > MAX_INT64) throw wrong(key, value, `a whole number of ${lo} to ${MAX_INT64}`);
  return big;
}

/** @param {string} key @param {unknown} value @param {number} most @returns {number} */
function asCount(key, value, most) {
  const found = typeof value === "bigint" ? Number(value) : value;
  if (!Number.isSafeInteger(found) || /** @type {number} */ (found) < 0 || /** @type {number} */ (found) > most) throw wrong(key, value, `a whole number of 0 to ${most}`);
  return /** @type {number} */ (found);
}

/** @param {Record<string, unknown>} raw @param {string} key @param {number} [most] @returns {number} */
function count(raw, key, most = Number.MAX_SAFE_INTEGER) {
  return asCount(key, raw[key], most);
}

/** @param {Record<string, unknown>} raw @param {string} key @param {number} most @param {number} length @returns {number[]} */
export function counts(raw, key, most, length) {
  const value = raw[key];
  if (!Array.isArray(value) || value.length > length) throw wrong(key, value, `at most ${length} whole numbers up to ${most}`);
  return value.map((item) => asCount(key, item, most));
}

/** @param {string} key @param {unknown} value @returns {number} */
export function asNumber(key, value) {
  if (typeof value === "bigint") return Number(value);
  if (typeof value !== "number") throw wrong(key, value, "a number");
  return value;
}

/** @param {Record<string, unknown>} raw @param {string} key */
function number(raw, key) {
  return asNumber(key, raw[key]);
}

/** @param {Record<string, unknown>} raw @param {string} key @param {number} [most] @returns {string} */
export function text(raw, key, most = 256) {
  const value = raw[key];
  if (typeof value !== "string" || value.length > most) throw wrong(key, value, `a text of at most ${most} characters`);
  return value;
}

/** @template {string} T @param {Record<string, unknown>} raw @param {string} key @param {readonly T[]} choices @returns {T} */
function one(raw, key, choices) {
  const value = raw[key];
  if (!choices.includes(/** @type {T} */ (value))) throw wrong(key, value, `one of ${choices.join(", ")}`);
  return /** @type {T} */ (value);
}

/** @param {Record<string, unknown>} raw @param {string} key @param {boolean} [required] @returns {Record<string, unknown>} */
function map(raw, key, required = false) {
  const value = raw[key];
  if ((value === undefined || value === null) && !required) return {};
  if (!isMap(value)) throw wrong(key, value, "a map");
  return { ...value };
}

/**
 * A value with every bigint that a number holds exactly turned into one: MessagePack gives bigint for each integer stored in 64 bits.
 *
 * @param {unknown} value
 * @returns {unknown}
 */
export function plainNumbers(value) {
  if (typeof value === "bigint") return value >= -9007199254740991n && value <= 9007199254740991n ? Number(value) : value;
  if (Array.isArray(value)) return value.map(plainNumbers);
  if (isMap(value)) return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, plainNumbers(item)]));
  return value;
}
