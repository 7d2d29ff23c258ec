/**
 * Preview: frames and control over the WebSocket of the preview page (docs/preview.md), with the same verbs as Control. For pages and for Node 22,
 * Deno and Bun. No dependencies, no build: a page may load this file with its neighbours as they are.
 */

import { AfterimageError, ConnectionError, WireError } from "./errors.js";
import { Frame, now } from "./frame.js";
import { Tally } from "./tally.js";
import { Verbs } from "./verbs.js";
import { checkHeader, checkParts, isMap, MAX_HEADER } from "./wire.js";

const MESSAGE_BYTES = 1 << 20;

export { AfterimageError, ConnectionError, RefusedError, TimeoutError, VersionError, WireError } from "./errors.js";
export { Frame } from "./frame.js";
export { Receipt } from "./verbs.js";
export { DEGRADED, DISCONTINUITY, KEY } from "./wire.js";

/**
 * @typedef {object} PreviewOptions
 * @property {string} [token]               as `engine run` printed it; may also stand in the address
 * @property {("h264" | "jpeg")[]} [codecs] best first; default: h264 where VideoDecoder exists, then jpeg
 * @property {string | null} [of]           an output such as `paint.image`; default the main one; null: no pictures, control alone
 * @property {number} [timeoutMs]           for the first answer to a request; default 5000
 */

/** @implements {AsyncIterable<Frame>} */
export class Preview extends Verbs {
  /** @param {string} address  what `engine run --preview` printed, `http://127.0.0.1:8600/?token=...` @param {PreviewOptions} [options] */
  constructor(address, { token, codecs, of, timeoutMs = 5000 } = {}) {
    super((request) => this.#push(request), timeoutMs);
    const url = new URL("ws", new URL(address, globalThis.location?.href));
    url.protocol = url.protocol === "https:" || url.protocol === "wss:" ? "wss:" : "ws:";
    const given = token ?? new URL(address, globalThis.location?.href).searchParams.get("token");
    if (given) url.searchParams.set("token", given);
    this.#codecs = codecs ?? ("VideoDecoder" in globalThis ? ["h264", "jpeg"] : ["jpeg"]);
    if (typeof WebSocket === "undefined") throw new AfterimageError("this runtime has no WebSocket: Node from version 22 has one; or use Subscriber and Control");
    this.#socket = new WebSocket(url);
    this.#socket.binaryType = "arraybuffer";
    this.#socket.onmessage = ({ data }) => (typeof data === "string" ? this.deliver(JSON.parse(data)) : this.#frame(data));
    // Some runtimes tell of a refused connection by `error` alone, browsers by both.
    this.#socket.onerror = () => this.#closed(new ConnectionError("the connection fails: does the run go on at this address, and is the token right?"));
    this.#socket.onclose = ({ code, reason }) => this.#closed(new ConnectionError(`the connection has ended (${code}${reason ? `: ${reason}` : ""}): does the run go on, and is the token right?`));
    /** Settles when the connection stands and the first view was answered. */
    this.ready = new Promise((resolve, reject) => {
      this.#socket.onopen = () => (of === null ? resolve(undefined) : this.view(of).then(() => resolve(undefined), reject));
      this.#unready = reject;
    });
    this.ready.catch(() => {}); // whoever waits is told; whoever does not is told by the iterator
  }

  #socket;
  #codecs;
  /** @type {(error: Error) => void} */
  #unready = () => {};
  #tally = new Tally();
  /** @type {Frame[]} */
  #waiting = [];
  /** @type {{resolve: (result: IteratorResult<Frame, undefined>) => void, reject: (error: Error) => void}[]} */
  #asking = [];
  /** @type {Error | null} */
  #error = null;
  #over = false;
  #shown = -1;
  #offset = 0n;
  /** Messages that were no frames. */
  malformed = 0;
  /** What may be viewed: names of outputs, and which is the main one. @type {{of: string, main: boolean}[]} */
  outputs = [];

  /**
   * Choose what is shown. @param {string} [of]  absent: the main output; "": nothing @returns {Promise<import("./verbs.js").Answer>}
   */
  async view(of) {
    const answer = await this.request("view", of === undefined ? { codecs: this.#codecs } : { of, codecs: this.#codecs });
    this.outputs = answer.outputs ?? [];
    this.#waiting = [];
    this.#shown = -1;
    return answer;
  }

  /** Start or end a recording, or only ask. @param {boolean} [on] @returns {Promise<import("./verbs.js").Answer>} */
  record(on) {
    return this.request("record", on === undefined ? {} : { on });
  }

  /** Compare clocks; `ageOf` is exact to half the way there and back from then on (Cristian 1989). @returns {Promise<number>} ms the server is ahead */
  async syncClock() {
    let best = Infinity;
    for (let i = 0; i < 5; i++) {
      const before = now();
      const answer = await this.request("clock");
      const after = now();
      if (Number(after - before) < best) {
        best = Number(after - before);
        this.#offset = BigInt(Math.round(answer.now)) - (before + after) / 2n;
      }
    }
    return Number(this.#offset) / 1e6;
  }

  /** Milliseconds since a frame was captured, by the server's clock. @param {Frame} frame */
  ageOf(frame) {
    return Number(now() + this.#offset - frame.born) / 1e6;
  }

  /**
   * The next frame: of jpeg the newest there is, of h264 the next in order. Asking for it tells the server that the one before has been dealt
   * with, so that a slow page gets fewer frames, never older ones.
   *
   * @returns {Promise<IteratorResult<Frame, undefined>>}
   */
  next() {
    this.#report();
    const frame = this.#waiting.shift();
    if (frame) return Promise.resolve(this.#give(frame));
    if (this.#error) return Promise.reject(this.#error);
    if (this.#over) return Promise.resolve({ done: true, value: undefined });
    return new Promise((resolve, reject) => void this.#asking.push({ resolve, reject }));
  }

  /** @param {Frame} frame @returns {IteratorResult<Frame, undefined>} */
  #give(frame) {
    this.#shown = frame.n;
    return { done: false, value: frame };
  }

  #report() {
    if (this.#shown >= 0 && this.#socket.readyState === 1) this.#socket.send(JSON.stringify({ v: 1, op: "shown", n: this.#shown }));
    this.#shown = -1;
  }

  /** @param {ArrayBuffer} data */
  #frame(data) {
    let frame;
    try {
      frame = this.#checked(data);
    } catch (error) {
      if (!(error instanceof WireError)) throw error;
      this.malformed++;
      return;
    }
    if (frame.enc === "jpeg" && this.#waiting.length) frame.skipped += 1 + (this.#waiting.pop()?.skipped ?? 0);
    const asking = this.#asking.shift();
    if (asking) asking.resolve(this.#give(frame));
    else this.#waiting.push(frame);
  }

  /** @param {ArrayBuffer} data @returns {Frame} */
  #checked(data) {
    const size = data.byteLength < 4 ? -1 : new DataView(data).getUint32(0, true);
    if (size < 0 || size > MAX_HEADER || 4 + size > data.byteLength) throw new WireError("", "the header is longer than the message");
    let raw;
    try {
      raw = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(new Uint8Array(data, 4, size)));
    } catch (error) {
      throw new WireError("", `the header is no JSON: ${error instanceof Error ? error.message : error}`);
    }
    if (!isMap(raw)) throw new WireError("", "the header is no map");
    // JSON knows no integers beyond 2^53: these three come rounded, to a quarter of a microsecond.
    for (const key of ["sent", "born", "pts"]) if (Number.isFinite(raw[key])) raw[key] = BigInt(Math.round(/** @type {number} */ (raw[key])));
    const header = checkHeader(raw);
    if (header.kind !== "frame") throw new WireError("kind", "is no frame");
    const part = new Uint8Array(data, 4 + size);
    checkParts(header, [part]);
    const frame = new Frame(header, [part], { gap: this.#tally.add(header) });
    frame.codec = typeof raw.codec === "string" ? raw.codec : "";
    return frame;
  }

  /** @param {Record<string, unknown>} request */
  #push(request) {
    const text = JSON.stringify(request);
    const bytes = new TextEncoder().encode(text).length;
    if (bytes > MESSAGE_BYTES) throw new AfterimageError(`a request has at most ${MESSAGE_BYTES} bytes, this one ${bytes}`); // it would end the connection
    if (this.#socket.readyState === 1) this.#socket.send(text);
    else if (this.#socket.readyState === 0) this.#socket.addEventListener("open", () => this.#socket.send(text), { once: true });
    else throw new ConnectionError("the connection has ended");
  }

  /** @param {Error} error */
  #closed(error) {
    if (!this.#over) this.#error = error;
    else if (!this.#asking.length && !this.open) return;
    this.#over = true;
    this.#unready(error);
    this.lost(error);
    for (const { resolve, reject } of this.#asking.splice(0)) {
      if (this.#error) reject(this.#error);
      else resolve({ done: true, value: undefined });
    }
  }

  /** End the connection; a waiting `next` ends. */
  close() {
    this.#over = true;
    this.#socket.close();
    this.#closed(new ConnectionError("this client was closed"));
  }

  /** @returns {Promise<{done: true, value: undefined}>} */
  async return() {
    this.close();
    return { done: true, value: undefined };
  }

  [Symbol.asyncIterator]() {
    return this;
  }
}

/**
 * Draws the frames of a Preview on a canvas, until it ends: h264 by VideoDecoder, jpeg by createImageBitmap.
 *
 * @param {Preview} preview
 * @param {HTMLCanvasElement} canvas
 * @param {(frame: Frame) => void} [drawn]  called after each picture
 */
export async function show(preview, canvas, drawn = () => {}) {
  const context = canvas.getContext("2d");
  if (!context) throw new AfterimageError("the canvas gives no 2d context");
  /** @param {CanvasImageSource} picture @param {number} width @param {number} height @param {Frame} frame */
  const draw = (picture, width, height, frame) => {
    const [h, w] = width >= frame.shape[1] ? frame.shape : [height, width]; // an odd edge was repeated for the encoder: cut it off
    if (canvas.width !== w) canvas.width = w;
    if (canvas.height !== h) canvas.height = h;
    context.drawImage(picture, 0, 0);
    drawn(frame);
  };
  /** @type {VideoDecoder | null} */
  let decoder = null;
  let codec = "";
  /** @type {Map<number, Frame>} */
  const under = new Map();
  /** @type {Error | null} */
  let failed = null;
  try {
    for await (const frame of preview) {
      if (failed) throw failed;
      if (frame.enc !== "h264") {
        const picture = await createImageBitmap(new Blob([/** @type {Uint8Array<ArrayBuffer>} */ (frame.bytes)], { type: `image/${frame.enc}` }));
        draw(picture, picture.width, picture.height, frame);
        picture.close();
        continue;
      }
      if (frame.key && frame.codec !== codec) {
        decoder?.close();
        codec = frame.codec;
        under.clear();
        decoder = new VideoDecoder({
          output: (picture) => {
            const of = under.get(picture.timestamp);
            for (const n of under.keys()) if (n <= picture.timestamp) under.delete(n);
            if (of) draw(picture, picture.displayWidth, picture.displayHeight, of);
            picture.close();
          },
          error: (error) => (failed = error),
        });
        decoder.configure({ codec, optimizeForLatency: true });
      }
      if (!decoder) continue; // before the first key frame
      under.set(frame.n, frame);
      decoder.decode(new EncodedVideoChunk({ type: frame.key ? "key" : "delta", timestamp: frame.n, data: /** @type {Uint8Array<ArrayBuffer>} */ (frame.bytes) }));
    }
  } finally {
    if (decoder && decoder.state !== "closed") decoder.close();
  }
}
