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
const LINGER_MS = 1000; // for the last requests to leave

export class Control extends Verbs {
  /** @param {string} [endpoint] @param {ControlOptions} [options] */
  constructor(endpoint = ENDPOINT, { timeoutMs = 5000, curve } = {}) {
    super((request) => this.#push(request), timeoutMs);
    if (!/^(tcp|ipc):\/\/./.test(endpoint)) throw new AfterimageError(`no endpoint: ${JSON.stringify(endpoint)}. Write tcp://HOST:PORT or ipc://FILE`);
    this.endpoint = endpoint;
    this.#socket = new zmq.Dealer({ linger: LINGER_MS, reconnectInterval: 100, reconnectMaxInterval: 2000, heartbeatInterval: 2000, heartbeatTimeout: 6000 });
    if (curve) Object.assign(this.#socket, { curveServerKey: curve.serverKey, curvePublicKey: curve.publicKey, curveSecretKey: curve.secretKey });
    if (endpoint.startsWith("tcp://[")) this.#socket.ipv6 = true;
    this.#socket.events.on("disconnect", () => this.lost());
    this.#socket.connect(endpoint);
    this.#receive();
  }

  #socket;
  /** @type {Uint8Array[]} */
  #queue = [];
  /** @type {Promise<void> | null} */
  #sending = null;
  #closed = false;

  /** @param {Record<string, unknown>} request */
  #push(request) {
    if (this.#closed) throw new ConnectionError("this client is closed");
    const data = encode(request, { ignoreUndefined: true });
    if (data.byteLength > MESSAGE_BYTES) throw new AfterimageError(`a request has at most ${MESSAGE_BYTES} bytes, this one ${data.byteLength}`);
    this.#queue.push(data);
    this.#sending ??= this.#drain();
  }

  async #drain() {
    try {
      for (let data = this.#queue.shift(); data; data = this.#queue.shift()) await this.#socket.send(data);
    } catch (error) {
      if (!this.#closed) this.lost(new ConnectionError(`cannot send: ${/** @type {Error} */ (error).message}`, { cause: error }));
    } finally {
      this.#sending = null;
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
      if (!this.#closed) this.lost(new ConnectionError(`cannot receive: ${/** @type {Error} */ (error).message}`, { cause: error }));
    }
  }

  /** Let the last requests leave, for a second at most, and end the connection. Open receipts reject at once. */
  close() {
    if (this.#closed) return;
    this.#closed = true;
    this.lost(new ConnectionError("this client was closed with requests open"));
    if (this.#sending) this.#leave(this.#sending);
    else this.#socket.close();
  }

  /** One message is handed over at a time: what waits behind it would be gone with the socket. @param {Promise<void>} sent */
  async #leave(sent) {
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    let timer;
    await Promise.race([sent, new Promise((resolve) => (timer = setTimeout(resolve, LINGER_MS)))]);
    clearTimeout(timer);
    this.#socket.close();
  }

  [Symbol.dispose]() {
    this.close();
  }
}
