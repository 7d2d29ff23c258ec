/**
 * Subscriber: the frames of one stream as an async iterator. A thread of its own receives (worker.js); this side only asks it, so the frame that
 * comes out is the newest there is at that moment even where the program was busy for seconds.
 */

import { EventEmitter } from "node:events";
import { Worker } from "node:worker_threads";

import { AfterimageError, VersionError } from "./errors.js";
import { Frame, now } from "./frame.js";
import { Rings } from "./shm.js";
import { unpack } from "./unpack.js";
import { MAX_BYTES, topic } from "./wire.js";
import { COUNTERS } from "./worker.js";

/**
 * @typedef {object} SubscriberOptions
 * @property {string} [stream]    name of the stream; default `live`
 * @property {boolean} [latest]   true (default): always the newest frame, older ones are passed over. false: every frame, in order
 * @property {number} [queue]     with `latest: false`: frames kept for a reader that falls behind, then the oldest go; default 64
 * @property {boolean} [follow]   true: go on over the end of a run and wait for the next. false (default): the iterator ends with the run
 * @property {number} [maxBytes]  largest frame taken, coded or decoded; default 256 MiB
 * @property {Curve} [curve]      keys, where the publisher demands them
 *
 * @typedef {{serverKey: string, publicKey: string, secretKey: string}} Curve  Z85 texts of 40 characters
 *
 * @typedef {{resolve: (result: IteratorResult<Frame, undefined>) => void, reject: (error: Error) => void}} Question
 *
 * @typedef {object} Counters
 * @property {number} frames     that came in
 * @property {number} lost       on the way
 * @property {number} dropped    by the graph
 * @property {number} skipped    came in, and were passed over for newer ones
 * @property {number} malformed  messages that were none
 * @property {number} restarts   of the publisher
 */

const ALIVE_MS = 3000;

/**
 * Events: `beat` (Beat), `run` (id of the new run), `end` (End), `malformed` (why). None of them needs a listener.
 *
 * @extends {EventEmitter<{beat: [import("./wire.js").Beat], run: [string], end: [import("./wire.js").End], malformed: [string]}>}
 * @implements {AsyncIterable<Frame>}
 */
export class Subscriber extends EventEmitter {
  /** @param {string} endpoint  `tcp://HOST:PORT` or `ipc://FILE` @param {SubscriberOptions} [options] */
  constructor(endpoint, options = {}) {
    super();
    const { stream = "live", latest = true, queue = 64, follow = false, maxBytes = MAX_BYTES, curve = null } = options;
    topic(stream);
    if (!/^(tcp|ipc):\/\/./.test(endpoint)) throw new AfterimageError(`no endpoint: ${JSON.stringify(endpoint)}. Write tcp://HOST:PORT or ipc://FILE`);
    if (!Number.isInteger(queue) || queue < 1) throw new AfterimageError(`queue is a whole number from 1, not ${queue}`);
    this.endpoint = endpoint;
    this.stream = stream;
    this.latest = latest;
    const counters = new SharedArrayBuffer(8 * Object.keys(COUNTERS).length);
    this.#counters = new BigInt64Array(counters);
    const setup = { endpoint, stream, keep: latest ? 1 : queue, maxBytes, counters, follow, curve };
    // Without the options of this process: with --input-type, or -e, a worker that is a file does not start.
    this.#worker = new Worker(new URL("./worker.js", import.meta.url), { workerData: { afterimage: setup }, execArgv: [] });
    this.#worker.on("message", (message) => this.#on(message));
    this.#worker.on("error", (error) => this.#finish(error instanceof Error ? error : new AfterimageError(String(error))));
    this.#worker.on("exit", () => this.#finish(null));
  }

  #worker;
  #counters;
  #rings = new Rings();
  /** @type {Question[]} */
  #asking = [];
  /** @type {Question[]} whose time is over; the receiver may have answered meanwhile */
  #tooLate = [];
  /** @type {Error | null} */
  #error = null;
  #over = false;
  /** @type {import("./wire.js").Beat | null} */
  #beat = null;
  /** @type {import("./wire.js").End | null} */
  #end = null;

  /** The last heartbeat: frames a second and state of the graph. */
  get beat() {
    return this.#beat;
  }

  /** How the run ended, once it has. */
  get end() {
    return this.#end;
  }

  /** Milliseconds since anything was heard from the publisher; Infinity where nothing was. */
  get silentMs() {
    const heard = Atomics.load(this.#counters, COUNTERS.heard);
    return heard ? Number(now() - heard) / 1e6 : Infinity;
  }

  /** Something was heard within three seconds (a heartbeat comes every second), and the run has not ended. */
  get alive() {
    return this.silentMs < ALIVE_MS && this.#end === null;
  }

  /** What came and what was missed so far. */
  get counters() {
    const at = (/** @type {number} */ place) => Number(Atomics.load(this.#counters, place));
    const { frames, lost, dropped, skipped, malformed, restarts } = COUNTERS;
    return /** @type {Counters} */ ({
      frames: at(frames), lost: at(lost), dropped: at(dropped), skipped: at(skipped), malformed: at(malformed), restarts: at(restarts),
    }); // prettier-ignore
  }

  /** @returns {Promise<IteratorResult<Frame, undefined>>} the next frame: with `latest`, one that was not returned yet and is the newest */
  next() {
    if (this.#error) return Promise.reject(this.#error);
    if (this.#over) return Promise.resolve({ done: true, value: undefined });
    return new Promise((resolve, reject) => {
      this.#asking.push({ resolve, reject });
      this.#worker.postMessage("ask");
    });
  }

  /**
   * The next frame, or null where none comes in time or the run has ended.
   *
   * @param {number} [timeoutMs]
   * @returns {Promise<Frame | null>}
   */
  async read(timeoutMs = Infinity) {
    const pending = this.next();
    if (timeoutMs === Infinity) return (await pending).value ?? null;
    const question = this.#asking.at(-1);
    const timer = setTimeout(() => {
      if (!question || !this.#asking.includes(question)) return;
      this.#tooLate.push(question);
      this.#worker.postMessage("cancel");
    }, timeoutMs);
    try {
      return (await pending).value ?? null;
    } finally {
      clearTimeout(timer);
    }
  }

  /** @param {any} message */
  #on(message) {
    if (message.what === "item") this.#item(message);
    else if (message.what === "cancelled") this.#cancelled();
    else if (message.what === "beat") this.emit("beat", (this.#beat = message.header));
    else if (message.what === "run") {
      this.#end = null;
      this.emit("run", message.run);
    } else if (message.what === "end") this.emit("end", (this.#end = message.header));
    else if (message.what === "malformed") this.emit("malformed", message.message);
    else if (message.what === "version") this.#fail(new VersionError(message.key, message.message.replace(/^v: /, "")));
  }

  /** @param {import("./worker.js").Item} item */
  #item(item) {
    if (item.header.kind !== "frame") {
      this.#stop();
      return;
    }
    const place = item.header.shm;
    const frame = new Frame(item.header, item.parts, { ...item, unpack, elements: place ? () => this.#rings.copy(place) : undefined });
    this.#asking.shift()?.resolve({ done: false, value: frame });
  }

  /** The receiver took one question back: of the one that ran out of time, or, where a frame has just answered that, of another. */
  #cancelled() {
    const question = this.#tooLate.shift();
    const at = question ? this.#asking.indexOf(question) : -1;
    if (at >= 0) this.#asking.splice(at, 1)[0].resolve({ done: true, value: undefined });
    else if (this.#asking.length) this.#worker.postMessage("ask");
  }

  /** @param {Error} error */
  #fail(error) {
    this.#worker.postMessage("close");
    this.#finish(error);
  }

  #stop() {
    this.#worker.postMessage("close");
    this.#finish(null);
  }

  /** @param {Error | null} error */
  #finish(error) {
    this.#over = true;
    this.#error ??= error;
    for (const { resolve, reject } of this.#asking.splice(0)) {
      if (error) reject(error);
      else resolve({ done: true, value: undefined });
    }
  }

  /** Stop receiving; a waiting `next` ends. */
  async close() {
    if (!this.#over) this.#stop();
    await new Promise((resolve) => (this.#worker.threadId === -1 ? resolve(undefined) : this.#worker.once("exit", resolve)));
    this.#rings.close();
  }

  /** @returns {Promise<{done: true, value: undefined}>} */
  async return() {
    await this.close();
    return { done: true, value: undefined };
  }

  [Symbol.asyncIterator]() {
    return this;
  }

  async [Symbol.asyncDispose]() {
    await this.close();
  }
}
