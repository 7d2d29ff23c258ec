/**
 * One frame as a reader gets it: header fields, payload, and what was missed before it. Knows no socket and no codec.
 */

import { WireError } from "./errors.js";
import { DEGRADED, DISCONTINUITY, KEY, asNumber, counts, isMap, plainNumbers, text, MAX_PLAIN } from "./wire.js";

const POINTS = 18;

/**
 * @typedef {Uint8Array | Float32Array | Int32Array} Elements
 * @typedef {{people: Float32Array, n: number, size: [number, number], stability: number | null}} Pose
 *   `people` holds n x 18 x 3 numbers: x and y of 0 to 1, and confidence; `size` is [height, width]
 * @typedef {{text: string, negative: string, blend: number}} Prompt
 * @typedef {{lost: number, dropped: number, restarted: boolean}} Gap
 *   what is missing between the frame before and this one: `lost` on the way, `dropped` by the graph; `restarted`: another run
 */

/** @returns {bigint} now, ns since 1970, to compare with `born` and `sent` */
export function now() {
  return BigInt(Math.round((performance.timeOrigin + performance.now()) * 1000)) * 1000n;
}

/** A frame. All fields of the header (docs/wire.md) are properties of it. */
export class Frame {
  /**
   * @param {import("./wire.js").FrameHeader} header
   * @param {Uint8Array[]} parts
   * @param {{gap?: Gap, skipped?: number, received?: bigint, unpack?: (bytes: Uint8Array) => unknown, elements?: () => Uint8Array}} [more]
   */
  constructor(header, parts, more = {}) {
    this.stream = header.stream;
    this.run = header.run;
    this.n = header.n;
    this.sent = header.sent;
    this.seq = header.seq;
    this.epoch = header.epoch;
    this.pts = header.pts;
    this.born = header.born;
    this.params = header.params;
    this.flags = header.flags;
    this.type = header.type;
    this.enc = header.enc;
    this.dtype = header.dtype;
    this.shape = header.shape;
    this.layout = header.layout;
    this.color = header.color;
    this.shm = header.shm;
    this.lat = header.lat;
    this.meta = header.meta;
    /** Payload parts as they came. */
    this.parts = parts;
    /** Frames lost on the way just before this one. */
    this.lost = more.gap?.lost ?? 0;
    /** Frames that the graph dropped just before this one. */
    this.dropped = more.gap?.dropped ?? 0;
    /** The publisher was restarted since the frame before. */
    this.restarted = more.gap?.restarted ?? false;
    /** Frames that came and were passed over because this newer one was there when somebody asked. */
    this.skipped = more.skipped ?? 0;
    /** Of a key frame of h264 over the preview's WebSocket: what VideoDecoder.configure wants. */
    this.codec = "";
    /** When it came in, ns since 1970. */
    this.received = more.received ?? now();
    this.#unpack = more.unpack;
    this.#elements = more.elements;
  }

  /** @type {((bytes: Uint8Array) => unknown) | undefined} */
  #unpack;
  /** @type {(() => Uint8Array) | undefined} */
  #elements;

  get key() {
    return (this.flags & KEY) !== 0;
  }

  get discontinuity() {
    return (this.flags & DISCONTINUITY) !== 0;
  }

  get degraded() {
    return (this.flags & DEGRADED) !== 0;
  }

  /** Milliseconds from capture until it was sent. */
  get ageMs() {
    return Number(this.sent - this.born) / 1e6;
  }

  /** Milliseconds from capture until now; across hosts as good as their clocks agree. */
  get latencyMs() {
    return Number(now() - this.born) / 1e6;
  }

  /** Milliseconds from send to receipt. */
  get transitMs() {
    return Number(this.received - this.sent) / 1e6;
  }

  /**
   * The payload's bytes: of a raw array its elements, of jpeg and png one file, of h264 one access unit. From shared memory it is a copy;
   * throws OverwrittenError where a newer frame has taken its place.
   *
   * @returns {Uint8Array}
   */
  get bytes() {
    if (this.enc !== "shm") return this.parts[0];
    if (!this.#elements) throw new WireError("enc", "this client cannot read shared memory");
    return this.#elements();
  }

  /**
   * The elements of an array that was sent raw or lies in shared memory, in C order of `shape`. float16 comes widened to float32, exactly.
   * A view of the payload where its alignment allows, else a copy.
   *
   * @returns {Elements}
   */
  array() {
    if (this.enc !== "raw" && this.enc !== "shm") throw new WireError("enc", `${this.enc} has no elements: take \`bytes\`, and decode them`);
    return elements(this.dtype, this.bytes);
  }

  /**
   * The value of a Pose, Prompt, Scalar, Text or Data; throws WireError where the payload is not what the type says.
   *
   * @returns {Pose | Prompt | number | string | Record<string, unknown>}
   */
  value() {
    if (this.enc !== "msgpack" || !this.#unpack) throw new WireError("enc", `${this.type} as ${this.enc} is no plain value: take array() or \`bytes\``);
    return plain(this.type, this.#unpack(this.parts[0]));
  }

  /** The header as a plain map, for logs. */
  toJSON() {
    const { parts, ...rest } = this;
    return { ...rest, bytes: parts.reduce((sum, part) => sum + part.byteLength, 0), ageMs: this.ageMs };
  }
}

/** @param {string} dtype @param {Uint8Array} bytes @returns {Elements} */
export function elements(dtype, bytes) {
  if (dtype === "uint8") return bytes;
  if (dtype === "float16") return widened(bytes);
  const whole = bytes.byteOffset % 4 === 0 && LITTLE ? bytes : ordered(bytes);
  const Kind = dtype === "int32" ? Int32Array : Float32Array;
  return new Kind(/** @type {ArrayBuffer} */ (whole.buffer), whole.byteOffset, whole.byteLength / 4);
}

const LITTLE = new Uint8Array(new Uint16Array([1]).buffer)[0] === 1;

/** A copy that begins at a whole word, in this machine's byte order. @param {Uint8Array} bytes */
function ordered(bytes) {
  const copy = new Uint8Array(bytes);
  if (!LITTLE) for (let i = 0; i < copy.length; i += 4) copy.subarray(i, i + 4).reverse();
  return copy;
}

/** @type {Float32Array | null} */
let halves = null;

/** Half floats (IEEE 754 binary16, little endian) as floats, by a table of all 65,536. @param {Uint8Array} bytes @returns {Float32Array} */
function widened(bytes) {
  halves ??= Float32Array.from({ length: 65_536 }, (_, bits) => {
    const sign = bits & 0x8000 ? -1 : 1;
    const exponent = (bits >> 10) & 0x1f;
    const fraction = bits & 0x3ff;
    if (exponent === 31) return fraction ? NaN : sign * Infinity;
    return exponent ? sign * 2 ** (exponent - 15) * (1 + fraction / 1024) : sign * 2 ** -14 * (fraction / 1024);
  });
  const found = new Float32Array(bytes.byteLength >> 1);
  for (let i = 0; i < found.length; i++) found[i] = halves[bytes[2 * i] | (bytes[2 * i + 1] << 8)];
  return found;
}

/** @param {string} type @param {unknown} value @returns {Pose | Prompt | number | string | Record<string, unknown>} */
function plain(type, value) {
  if (type === "Scalar") return asNumber("payload.value", value);
  if (type === "Text") {
    if (typeof value !== "string") throw new WireError("payload.value", "is no text");
    return value;
  }
  if (!isMap(value)) throw new WireError("payload", "is no map");
  if (type === "Pose") return pose(value);
  if (type === "Prompt") {
    const [blend] = counts({ blend: [value.blend] }, "blend", 2 ** 31, 1);
    return { text: text(value, "text", MAX_PLAIN), negative: text(value, "negative", MAX_PLAIN), blend };
  }
  return /** @type {Record<string, unknown>} */ (plainNumbers(value));
}

/** @param {Record<string, unknown>} value @returns {Pose} */
function pose(value) {
  const [n] = counts({ n: [value.n] }, "n", 4096, 1);
  const people = value.people;
  if (!(people instanceof Uint8Array) || people.byteLength !== n * POINTS * 3 * 4) throw new WireError("payload.people", `is not ${n} x 18 x 3 float32`);
  const size = counts(value, "size", 65_535, 2);
  if (size.length !== 2) throw new WireError("payload.size", "is not [height, width]");
  const stability = value.stability === null || value.stability === undefined ? null : asNumber("payload.stability", value.stability);
  return { people: /** @type {Float32Array} */ (elements("float32", people)), n, size: [size[0], size[1]], stability };
}
