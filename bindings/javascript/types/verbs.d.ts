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
export class Receipt implements PromiseLike<Applied> {
    /** The engine has checked the change: it will land. */
    get accepted(): Promise<Accepted>;
    /** The change has landed, with the frame it landed on. */
    get applied(): Promise<Applied>;
    /** The last frame of a ramp has been made; of any other change, the same as `applied`. */
    get done(): Promise<Applied>;
    /**
     * @template [A=Applied] @template [B=never]
     * @param {((applied: Applied) => A | PromiseLike<A>) | null} [good]
     * @param {((why: any) => B | PromiseLike<B>) | null} [bad]
     * @returns {Promise<A | B>}
     */
    then<A = Applied, B = never>(good?: ((applied: Applied) => A | PromiseLike<A>) | null, bad?: ((why: any) => B | PromiseLike<B>) | null): Promise<A | B>;
    /** @internal @param {string} kind @param {Answer} message @param {boolean} ramp @returns {boolean} nothing more will come */
    take(kind: string, message: Answer, ramp: boolean): boolean;
    /** @internal @param {Error} error */
    fail(error: Error): void;
    #private;
}
/** @typedef {{first: (message: Answer) => void, then?: (kind: string, message: Answer) => boolean, fail: (error: Error) => void, timer: ReturnType<typeof setTimeout> | undefined}} Pending */
/** The verbs. A carrier calls `deliver` with each message that comes in, `lost` when the connection has gone. */
export class Verbs {
    /** @param {(request: Answer) => void} send @param {number} timeoutMs  for the first answer to a request */
    constructor(send: (request: Answer) => void, timeoutMs?: number);
    /** Who answers, what runs, which verbs it knows. @param {string} [client] @param {string} [version] @returns {Promise<Answer>} */
    hello(client?: string, version?: string): Promise<Answer>;
    /** Nodes with their parameters and JSON schemas, edges, streams, knobs. @returns {Promise<Answer>} */
    describe(): Promise<Answer>;
    /**
     * Present values. With one path its value; with several, or none (then all), a map.
     *
     * @param {string | string[]} [paths]
     * @returns {Promise<any>}
     */
    get(paths?: string | string[]): Promise<any>;
    /** Counters, times, rates and memory. @returns {Promise<Answer>} */
    stats(): Promise<Answer>;
    /**
     * The newest picture of an output; `data` is a PNG or JPEG file.
     *
     * @param {string} [of]  `node.output`; without it the graph's main one
     * @param {"png" | "jpeg"} [format]
     * @returns {Promise<{seq: number, epoch: number, data: Uint8Array, format: string}>}
     */
    snapshot(of?: string, format?: "png" | "jpeg"): Promise<{
        seq: number;
        epoch: number;
        data: Uint8Array;
        format: string;
    }>;
    /**
     * What happens, as it happens: messages of kind `stats`, `params` or `event`. Leaving the loop ends the watch.
     *
     * @param {{what?: ("stats" | "params" | "events")[], everyMs?: number}} [options]
     * @returns {AsyncGenerator<Answer, void, void>}
     */
    watch({ what, everyMs }?: {
        what?: ("stats" | "params" | "events")[];
        everyMs?: number;
    }): AsyncGenerator<Answer, void, void>;
    /** Set parameters: all on one frame, or none. @param {Changes} changes @returns {Receipt} */
    set(changes: Changes): Receipt;
    /**
     * Lead parameters to values over a number of frames or seconds.
     *
     * @param {Changes} changes
     * @param {{frames?: number, seconds?: number, curve?: Curve}} over
     * @returns {Receipt} applied at the first frame, done at the last
     */
    ramp(changes: Changes, over: {
        frames?: number;
        seconds?: number;
        curve?: Curve;
    }): Receipt;
    /** Begin a new epoch: carries and holds start afresh. @param {string} [reason] @returns {Receipt} */
    reset(reason?: string): Receipt;
    /** Let the governor move knobs again that were set by hand: these, or all. @param {string[]} [paths] @returns {Receipt} */
    release(paths?: string[]): Receipt;
    /** @returns {Receipt} */
    pause(): Receipt;
    /** @returns {Receipt} */
    resume(): Receipt;
    /** Load the graph file anew, or another. @param {{path?: string, text?: string}} [from] @returns {Receipt} with `diff` */
    reload(from?: {
        path?: string;
        text?: string;
    }): Receipt;
    /** End the run. @param {{drain?: boolean}} [how]  drain: finish what is under way (the default) @returns {Receipt} */
    stop(how?: {
        drain?: boolean;
    }): Receipt;
    /**
     * A reading verb. @param {string} op @param {Answer} [fields] @param {number} [id] @returns {Promise<Answer>}
     */
    request(op: string, fields?: Answer, id?: number): Promise<Answer>;
    /** A changing verb. @param {string} op @param {Answer} [fields] @param {boolean} [ramp] @returns {Receipt} */
    change(op: string, fields?: Answer, ramp?: boolean): Receipt;
    /** @internal A message has come in; what is none, or nobody's, is left alone. @param {unknown} raw */
    deliver(raw: unknown): void;
    /** @internal The connection has gone: nobody will answer what is open. @param {Error} [error] */
    lost(error?: Error): void;
    /** Requests without their last answer. */
    get open(): number;
    #private;
}
export type Deferred<T> = {
    promise: Promise<T>;
    resolve: (value: T) => void;
    reject: (error: Error) => void;
};
/**
 * whatever JSON can say
 */
export type Plain = null | boolean | number | string | unknown[] | {
    [key: string]: unknown;
};
export type Answer = Record<string, any>;
export type Accepted = {
    id: number;
    receipt: number;
};
/**
 * `seq`: the first frame made with the change; `params`: the parameter version that frames carry from then on
 */
export type Applied = {
    id: number;
    receipt: number;
    seq: number | null;
    epoch: number;
    params: number;
    diff?: unknown;
};
/**
 * `node.param` to value
 */
export type Changes = Record<string, Plain>;
export type Curve = "linear" | "ease";
export type Pending = {
    first: (message: Answer) => void;
    then?: (kind: string, message: Answer) => boolean;
    fail: (error: Error) => void;
    timer: ReturnType<typeof setTimeout> | undefined;
};
