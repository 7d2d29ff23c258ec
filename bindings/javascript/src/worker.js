/**
 * The receiving thread of a Subscriber: takes every message off the socket at once, whatever the program's own thread is doing, keeps the newest
 * (or the last few), and hands one over each time that it is asked. So what the program gets is the newest there is when it asks, never what
 * waited in a buffer of the network meanwhile.
 */

import { parentPort, workerData } from "node:worker_threads";

import * as zmq from "zeromq";

import { VersionError, WireError } from "./errors.js";
import { now } from "./frame.js";
import { Tally } from "./tally.js";
import { unpack } from "./unpack.js";
import { checkHeader, checkParts, MAX_HEADER, MAX_PARTS, topic } from "./wire.js";

/**
 * @typedef {{header: import("./wire.js").Header, parts: Uint8Array[], gap: import("./frame.js").Gap, received: bigint, skipped: number}} Item
 * @typedef {{endpoint: string, stream: string, keep: number, maxBytes: number, counters: SharedArrayBuffer, follow: boolean,
 *   curve: {serverKey: string, publicKey: string, secretKey: string} | null}} Setup
 */

/** Places in the counters that both threads see. */
export const COUNTERS = { heard: 0, frames: 1, lost: 2, dropped: 3, skipped: 4, malformed: 5, restarts: 6 };

export class Receiver {
  /** @param {Setup} setup @param {(message: any, transfer?: ArrayBuffer[]) => void} post */
  constructor(setup, post) {
    this.#setup = setup;
    this.#post = post;
    this.#counters = new BigInt64Array(setup.counters);
    this.#topic = topic(setup.stream);
  }

  #setup;
  #post;
  #counters;
  #topic;
  #tally = new Tally();
  /** @type {Item[]} */
  #waiting = [];
  #asked = 0;
  #ended = false;
  /** @type {zmq.Subscriber | null} */
  #socket = null;

  async run() {
    const { endpoint, curve, maxBytes } = this.#setup;
    const socket = (this.#socket = new zmq.Subscriber({ receiveHighWaterMark: 4, linger: 0, maxMessageSize: maxBytes, reconnectInterval: 100, reconnectMaxInterval: 2000 }));
    socket.heartbeatInterval = 1000; // a connection whose other end has vanished is made anew
    socket.heartbeatTimeout = 5000;
    if (endpoint.startsWith("tcp://[")) socket.ipv6 = true;
    if (curve) Object.assign(socket, { curveServerKey: curve.serverKey, curvePublicKey: curve.publicKey, curveSecretKey: curve.secretKey });
    socket.connect(endpoint);
    socket.subscribe(this.#topic);
    try {
      for await (const parts of socket) this.message(parts);
    } catch (error) {
      if (!socket.closed) throw error;
    }
  }

  /** @param {Uint8Array[]} parts */
  message(parts) {
    let header;
    try {
      header = this.#checked(parts);
    } catch (error) {
      if (error instanceof VersionError) this.#post({ what: "version", key: error.key, message: error.message });
      else if (!(error instanceof WireError)) throw error;
      this.#count("malformed");
      this.#post({ what: "malformed", message: String(/** @type {Error} */ (error).message) });
      return;
    }
    if (header === null || (this.#ended && !this.#setup.follow)) return;
    const received = now();
    const gap = this.#tally.add(header);
    Atomics.store(this.#counters, COUNTERS.heard, received);
    for (const name of /** @type {const} */ (["frames", "lost", "dropped", "restarts"])) Atomics.store(this.#counters, COUNTERS[name], BigInt(this.#tally[name]));
    if (gap.restarted) this.#post({ what: "run", run: header.run });
    if (header.kind === "beat") {
      this.#post({ what: "beat", header, lost: gap.lost });
      return;
    }
    this.#ended = header.kind === "end";
    if (this.#ended) this.#post({ what: "end", header });
    this.#waiting.push({ header, parts: parts.slice(2), gap, received, skipped: 0 });
    this.#trim();
    this.#serve();
  }

  ask() {
    this.#asked++;
    this.#serve();
  }

  /** Take a question back, where it is not answered yet. */
  cancel() {
    if (this.#asked === 0) return;
    this.#asked--;
    this.#post({ what: "cancelled" });
  }

  close() {
    this.#socket?.close();
  }

  /** The header of a message for us; null for another stream's, whose name begins as ours. @param {Uint8Array[]} parts */
  #checked(parts) {
    if (parts.length < 2 || parts.length > 2 + MAX_PARTS) throw new WireError("", `a message has 2 to ${2 + MAX_PARTS} parts, this one has ${parts.length}`);
    if (parts[1].byteLength > MAX_HEADER) throw new WireError("", `the header has ${parts[1].byteLength} bytes, more than ${MAX_HEADER}`);
    const header = checkHeader(unpack(parts[1]), { maxBytes: this.#setup.maxBytes });
    if (Buffer.from(parts[0]).toString("latin1") !== topic(header.stream)) throw new WireError("stream", `is ${header.stream}, and the topic is another`);
    if (header.stream !== this.#setup.stream) return null;
    if (header.kind === "frame") checkParts(header, parts.slice(2));
    else if (parts.length > 2) throw new WireError("size", `a ${header.kind} has no payload`);
    return header;
  }

  /** Let the oldest frames go while more wait than are kept; what is missing before them is then missing before the next. */
  #trim() {
    let frames = this.#waiting.reduce((sum, item) => sum + (item.header.kind === "frame" ? 1 : 0), 0);
    while (frames > this.#setup.keep) {
      const at = this.#waiting.findIndex((item) => item.header.kind === "frame");
      const [gone] = this.#waiting.splice(at, 1);
      const next = this.#waiting.slice(at).find((item) => item.header.kind === "frame");
      if (next) {
        next.skipped += gone.skipped + 1;
        const { lost, dropped, restarted } = gone.gap;
        next.gap = { lost: next.gap.lost + lost, dropped: next.gap.dropped + dropped, restarted: next.gap.restarted || restarted };
      }
      this.#count("skipped");
      frames--;
    }
    if (this.#setup.follow) this.#waiting = this.#waiting.filter((item) => item.header.kind === "frame");
  }

  #serve() {
    while (this.#asked > 0 && this.#waiting.length > 0) {
      const item = /** @type {Item} */ (this.#waiting.shift());
      this.#asked--;
      const parts = item.parts.map(own);
      this.#post({ what: "item", ...item, parts }, parts.map((part) => /** @type {ArrayBuffer} */ (part.buffer)));
    }
  }

  /** @param {keyof typeof COUNTERS} name */
  #count(name) {
    Atomics.add(this.#counters, COUNTERS[name], 1n);
  }
}

/** The bytes in a buffer of their own, so that it can change hands without a copy. Small messages share one and are copied. @param {Uint8Array} part */
function own(part) {
  const whole = part.byteOffset === 0 && part.byteLength === part.buffer.byteLength;
  return whole ? new Uint8Array(part.buffer) : new Uint8Array(part);
}

if (parentPort && workerData?.afterimage) {
  const port = parentPort;
  const receiver = new Receiver(workerData.afterimage, (message, transfer) => port.postMessage(message, transfer));
  port.on("message", (/** @type {string} */ what) => {
    if (what === "ask") receiver.ask();
    else if (what === "cancel") receiver.cancel();
    else if (what === "close") {
      receiver.close();
      port.close();
    }
  });
  await receiver.run();
}
