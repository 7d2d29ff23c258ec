/** Control: the verbs over ZeroMQ (a DEALER socket to `engine run --control`). */

import { encode } from "@msgpack/msgpack";
import * as zmq from "zeromq";

import { AfterimageError, ConnectionError } from "./errors.js";
import { unpack } from "./unpack.js";
import { Verbs } from "./verbs.js";

/**
 * @typedef {object} ControlOptions
 * @property {number} [timeoutMs]  for the first answer to a request; default 5000
 * @property {import("./subscriber.js").Curve} [curve]
 */

export const ENDPOINT = "tcp://127.0.0.1:5570";
const MESSAGE_BYTES = 1 << 20;

export class Control extends Verbs {
  /** @param {string} [endpoint] @param {ControlOptions} [options] */
  constructor(endpoint = ENDPOINT, { timeoutMs = 5000, curve } = {}) {
    super((request) => this.#push(request), timeoutMs);
    if (!/^(tcp|ipc):\/\/./.test(endpoint)) throw new AfterimageError(`no endpoint: ${JSON.stringify(endpoint)}. Write tcp://HOST:PORT or ipc://FILE`);
    this.endpoint = endpoint;
    this.#socket = new zmq.Dealer({ linger: 1000, reconnectInterval: 100, reconnectMaxInterval: 2000, heartbeatInterval: 2000, heartbeatTimeout: 6000 });
    if (curve) Object.assign(this.#socket, { curveServerKey: curve.serverKey, curvePublicKey: curve.publicKey, curveSecretKey: curve.secretKey });
    if (endpoint.startsWith("tcp://[")) this.#socket.ipv6 = true;
    this.#socket.events.on("disconnect", () => this.lost());
    this.#socket.connect(endpoint);
    this.#receive();
  }

  #socket;
  /** @type {Uint8Array[]} */
  #queue = [];
  #sending = false;

  /** @param {Record<string, unknown>} request */
  #push(request) {
    if (this.#socket.closed) throw new ConnectionError("this client is closed");
    const data = encode(request, { ignoreUndefined: true });
    if (data.byteLength > MESSAGE_BYTES) throw new AfterimageError(`a request has at most ${MESSAGE_BYTES} bytes, this one ${data.byteLength}`);
    this.#queue.push(data);
    if (!this.#sending) this.#drain();
  }

  async #drain() {
    this.#sending = true;
    try {
      for (let data = this.#queue.shift(); data; data = this.#queue.shift()) await this.#socket.send(data);
    } catch (error) {
      if (!this.#socket.closed) this.lost(new ConnectionError(`cannot send: ${/** @type {Error} */ (error).message}`, { cause: error }));
    } finally {
      this.#sending = false;
    }
  }

  async #receive() {
    try {
      for await (const [data] of this.#socket) {
        let message;
        try {
          message = unpack(data);
        } catch {
          continue; // no MessagePack: whoever waits for an answer is told by the timeout
        }
        this.deliver(message);
      }
    } catch (error) {
      if (!this.#socket.closed) this.lost(new ConnectionError(`cannot receive: ${/** @type {Error} */ (error).message}`, { cause: error }));
    }
  }

  /** Let the last requests leave, and end the connection. Open receipts reject. */
  close() {
    if (this.#socket.closed) return;
    this.#socket.close();
    this.lost(new ConnectionError("this client was closed with requests open"));
  }

  [Symbol.dispose]() {
    this.close();
  }
}
