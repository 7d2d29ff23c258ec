/**
 * The control verbs (docs/control.md) over any carrier: it numbers requests, matches answers, and turns them into promises. Knows no socket:
 * Control (ZeroMQ) and Preview (WebSocket) bring one.
 */

import { AfterimageError, ConnectionError, RefusedError, TimeoutError } from "./errors.js";
import { isMap, plainNumbers } from "./wire.js";

/**
 * @typedef {null | boolean | number | string | unknown[] | {[key: string]: unknown}} Plain  whatever JSON can say
 * @typedef {Record<string, any>} Answer
 * @typedef {{id: number, receipt: number}} Accepted
 * @typedef {{id: number, receipt: number, seq: number | null, epoch: number, params: number, diff?: unknown}} Applied
 *   `seq`: the first frame made with the change; `params`: the parameter version that frames carry from then on
 * @typedef {Record<string, Plain>} Changes  `node.param` to value
 * @typedef {"linear" | "ease"} Curve
 */

/**
 * A change under way. Awaiting it waits until it has landed; `accepted` settles before that, `done` at a ramp's last frame. All three reject
 * with RefusedError where the engine says no, TimeoutError where it says nothing, ConnectionError where the connection ends before.
 *
 * @implements {PromiseLike<Applied>}
 */
export class Receipt {
  constructor() {
    this.#accepted = deferred();
    this.#applied = deferred();
    this.#done = deferred();
    // Whoever looks at one of the three is told by that one; the other two must not end the program as unhandled rejections.
    for (const { promise } of [this.#accepted, this.#applied, this.#done]) promise.catch(() => {});
  }

  /** @type {Deferred<Accepted>} */
  #accepted;
  /** @type {Deferred<Applied>} */
  #applied;
  /** @type {Deferred<Applied>} */
  #done;
  #seen = false;

  /** The engine has checked the change: it will land. */
  get accepted() {
    this.#seen = true;
    return this.#accepted.promise;
  }

  /** The change has landed, with the frame it landed on. */
  get applied() {
    this.#seen = true;
    return this.#applied.promise;
  }

  /** The last frame of a ramp has been made; of any other change, the same as `applied`. */
  get done() {
    this.#seen = true;
    return this.#done.promise;
  }

  /**
   * @template [A=Applied] @template [B=never]
   * @param {((applied: Applied) => A | PromiseLike<A>) | null} [good]
   * @param {((why: any) => B | PromiseLike<B>) | null} [bad]
   * @returns {Promise<A | B>}
   */
  then(good, bad) {
    return this.applied.then(good, bad);
  }

  /** @internal @param {string} kind @param {Answer} message @param {boolean} ramp @returns {boolean} nothing more will come */
  take(kind, message, ramp) {
    if (kind === "accepted") {
      this.#accepted.resolve({ id: message.id, receipt: message.receipt });
      return false;
    }
    const { id, receipt, seq = null, epoch, params, diff } = message;
    const applied = { id, receipt, seq, epoch, params, ...(diff === undefined ? {} : { diff }) };
    if (kind === "applied") this.#applied.resolve(applied);
    if (kind === "done" || !ramp) this.#done.resolve(applied);
    return kind === "done" || !ramp;
  }

  /** @internal @param {Error} error */
  fail(error) {
    for (const { reject } of [this.#accepted, this.#applied, this.#done]) reject(error);
    setTimeout(() => { // a request may fail before its caller has got this receipt
      if (!this.#seen) Promise.reject(error); // nobody looks: let it be heard of, as of any rejected promise
    });
  }
}

/**
 * @template T
 * @typedef {{promise: Promise<T>, resolve: (value: T) => void, reject: (error: Error) => void}} Deferred
 */

/** @template T @returns {Deferred<T>} */
function deferred() {
  /** @type {any} */
  const found = {};
  found.promise = new Promise((resolve, reject) => Object.assign(found, { resolve, reject }));
  return found;
}

/** @typedef {{first: (message: Answer) => void, then?: (kind: string, message: Answer) => boolean, fail: (error: Error) => void, timer: ReturnType<typeof setTimeout> | undefined}} Pending */

/** The verbs. A carrier calls `deliver` with each message that comes in, `lost` when the connection has gone. */
export class Verbs {
  /** @param {(request: Answer) => void} send @param {number} timeoutMs  for the first answer to a request */
  constructor(send, timeoutMs = 5000) {
    this.#send = send;
    this.#timeoutMs = timeoutMs;
  }

  #send;
  #timeoutMs;
  #last = 0;
  /** @type {Map<number, Pending>} */
  #pending = new Map();
  /** @type {Map<number, (message: Answer) => void>} */
  #watches = new Map();

  // ---- reading

  /** Who answers, what runs, which verbs it knows. @param {string} [client] @param {string} [version] @returns {Promise<Answer>} */
  hello(client = "afterimage-client (JavaScript)", version = "0.1.0") {
    return this.request("hello", { client, version });
  }

  /** Nodes with their parameters and JSON schemas, edges, streams, knobs. @returns {Promise<Answer>} */
  describe() {
    return this.request("describe");
  }

  /**
   * Present values. With one path its value; with several, or none (then all), a map.
   *
   * @param {string | string[]} [paths]
   * @returns {Promise<any>}
   */
  async get(paths) {
    const answer = await this.request("get", paths === undefined ? {} : { paths: [paths].flat() });
    return typeof paths === "string" ? answer.values[paths] : answer.values;
  }

  /** Counters, times, rates and memory. @returns {Promise<Answer>} */
  stats() {
    return this.request("stats");
  }

  /**
   * The newest picture of an output; `data` is a PNG or JPEG file.
   *
   * @param {string} [of]  `node.output`; without it the graph's main one
   * @param {"png" | "jpeg"} [format]
   * @returns {Promise<{seq: number, epoch: number, data: Uint8Array, format: string}>}
   */
  async snapshot(of, format = "png") {
    const answer = await this.request("snapshot", of === undefined ? { format } : { of, format });
    const data = typeof answer.data === "string" ? Uint8Array.from(atob(answer.data), (letter) => letter.charCodeAt(0)) : answer.data;
    return { seq: answer.seq, epoch: answer.epoch, data, format: answer.format };
  }

  /**
   * What happens, as it happens: messages of kind `stats`, `params` or `event`. Leaving the loop ends the watch.
   *
   * @param {{what?: ("stats" | "params" | "events")[], everyMs?: number}} [options]
   * @returns {AsyncGenerator<Answer, void, void>}
   */
  async *watch({ what = ["stats"], everyMs } = {}) {
    const id = ++this.#last;
    /** @type {Answer[]} */
    const come = [];
    /** @type {() => void} */
    let wake = () => {};
    let over = false;
    /** @type {Error | null} */
    let failed = null;
    this.#watches.set(id, (message) => {
      if (message.kind === "lost") {
        over = true;
        failed = message.error;
      } else come.push(message);
      if (come.length > 256) come.shift(); // a reader that fell behind: the oldest go
      wake();
    });
    try {
      await this.request("watch", everyMs === undefined ? { what } : { what, every_ms: everyMs }, id);
      while (!over || come.length) {
        const message = come.shift();
        if (message) yield message;
        else await new Promise((resolve) => (wake = () => resolve(undefined)));
      }
      if (failed) throw failed;
    } finally {
      this.#watches.delete(id);
      if (!over) await this.request("unwatch", { what }).catch(() => {});
    }
  }

  // ---- changing

  /** Set parameters: all on one frame, or none. @param {Changes} changes @returns {Receipt} */
  set(changes) {
    return this.change("set", { changes });
  }

  /**
   * Lead parameters to values over a number of frames or seconds.
   *
   * @param {Changes} changes
   * @param {{frames?: number, seconds?: number, curve?: Curve}} over
   * @returns {Receipt} applied at the first frame, done at the last
   */
  ramp(changes, over) {
    return this.change("ramp", { changes, ...over }, true);
  }

  /** Begin a new epoch: carries and holds start afresh. @param {string} [reason] @returns {Receipt} */
  reset(reason) {
    return this.change("reset", reason === undefined ? {} : { reason });
  }

  /** Let the governor move knobs again that were set by hand: these, or all. @param {string[]} [paths] @returns {Receipt} */
  release(paths) {
    return this.change("release", paths === undefined ? {} : { paths });
  }

  /** @returns {Receipt} */
  pause() {
    return this.change("pause");
  }

  /** @returns {Receipt} */
  resume() {
    return this.change("resume");
  }

  /** Load the graph file anew, or another. @param {{path?: string, text?: string}} [from] @returns {Receipt} with `diff` */
  reload(from = {}) {
    return this.change("reload", from);
  }

  /** End the run. @param {{drain?: boolean}} [how]  drain: finish what is under way (the default) @returns {Receipt} */
  stop(how = {}) {
    return this.change("stop", how);
  }

  // ---- the protocol

  /**
   * A reading verb. @param {string} op @param {Answer} [fields] @param {number} [id] @returns {Promise<Answer>}
   */
  request(op, fields = {}, id = ++this.#last) {
    return new Promise((resolve, reject) => {
      this.#ask(id, op, fields, { first: resolve, fail: reject });
    });
  }

  /** A changing verb. @param {string} op @param {Answer} [fields] @param {boolean} [ramp] @returns {Receipt} */
  change(op, fields = {}, ramp = false) {
    const receipt = new Receipt();
    const id = ++this.#last;
    this.#ask(id, op, fields, {
      first: (message) => void receipt.take(message.kind, message, ramp),
      then: (kind, message) => receipt.take(kind, message, ramp),
      fail: (error) => receipt.fail(error),
    });
    return receipt;
  }

  /** @param {number} id @param {string} op @param {Answer} fields @param {Omit<Pending, "timer">} pending */
  #ask(id, op, fields, pending) {
    const timer = setTimeout(() => {
      this.#pending.delete(id);
      pending.fail(new TimeoutError(`no answer to ${op} within ${this.#timeoutMs} ms: does the engine run, with control at this address?`));
    }, this.#timeoutMs);
    this.#pending.set(id, { ...pending, timer });
    try {
      this.#send({ v: 1, id, op, ...fields });
    } catch (error) {
      clearTimeout(timer);
      this.#pending.delete(id);
      pending.fail(error instanceof Error ? error : new AfterimageError(String(error)));
    }
  }

  /** @internal A message has come in; what is none, or nobody's, is left alone. @param {unknown} raw */
  deliver(raw) {
    const message = plainNumbers(raw);
    if (!isMap(message) || typeof message.kind !== "string") return;
    const { kind } = message;
    const id = typeof message.id === "number" ? message.id : -1;
    if (kind === "stats" || kind === "params" || kind === "event") {
      this.#watches.get(id)?.(message);
      return;
    }
    const pending = this.#pending.get(id);
    if (!pending) return;
    clearTimeout(pending.timer);
    if (kind === "refused" || kind === "failed" || kind === "error") {
      this.#pending.delete(id);
      pending.fail(refusal(message));
    } else if (kind === "answer") {
      this.#pending.delete(id);
      pending.first(message);
    } else if (kind === "accepted") pending.first(message);
    else if ((kind === "applied" || kind === "done") && pending.then?.(kind, message)) this.#pending.delete(id);
  }

  /** @internal The connection has gone: nobody will answer what is open. @param {Error} [error] */
  lost(error = new ConnectionError("the connection to the engine has ended; whether open changes landed is unknown")) {
    const open = [...this.#pending.values()];
    this.#pending.clear();
    for (const pending of open) {
      clearTimeout(pending.timer);
      pending.fail(error);
    }
    for (const watch of this.#watches.values()) watch({ kind: "lost", error });
    this.#watches.clear();
  }

  /** Requests without their last answer. */
  get open() {
    return this.#pending.size;
  }
}

/** @param {Answer} message @returns {RefusedError} */
function refusal(message) {
  const error = isMap(message.error) ? /** @type {Answer} */ (message.error) : {};
  const problems = message.problems;
  const told = [error.message || "refused"];
  if (isMap(problems)) told.push(...Object.entries(problems).filter(([, why]) => !told[0].includes(String(why))).map(([path, why]) => `${path}: ${why}`));
  if (error.fix) told.push(error.fix);
  return new RefusedError(told.join("; "), { ...error, problems, failed: message.kind === "failed" });
}
