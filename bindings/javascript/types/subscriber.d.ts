/**
 * Events: `beat` (Beat), `run` (id of the new run), `end` (End), `malformed` (why). None of them needs a listener.
 *
 * @extends {EventEmitter<{beat: [import("./wire.js").Beat], run: [string], end: [import("./wire.js").End], malformed: [string]}>}
 * @implements {AsyncIterable<Frame>}
 */
export class Subscriber extends EventEmitter<{
    beat: [import("./wire.js").Beat];
    run: [string];
    end: [import("./wire.js").End];
    malformed: [string];
}> implements AsyncIterable<Frame> {
    /** @param {string} endpoint  `tcp://HOST:PORT` or `ipc://FILE` @param {SubscriberOptions} [options] */
    constructor(endpoint: string, options?: SubscriberOptions);
    endpoint: string;
    stream: string;
    latest: boolean;
    /** The last heartbeat: frames a second and state of the graph. */
    get beat(): import("./wire.js").Beat | null;
    /** How the run ended, once it has. */
    get end(): import("./wire.js").End | null;
    /** Milliseconds since anything was heard from the publisher; Infinity where nothing was. */
    get silentMs(): number;
    /** Something was heard within three seconds (a heartbeat comes every second), and the run has not ended. */
    get alive(): boolean;
    /** What came and what was missed so far. */
    get counters(): Counters;
    /** @returns {Promise<IteratorResult<Frame, undefined>>} the next frame: with `latest`, one that was not returned yet and is the newest */
    next(): Promise<IteratorResult<Frame, undefined>>;
    /**
     * The next frame, or null where none comes in time or the run has ended.
     *
     * @param {number} [timeoutMs]
     * @returns {Promise<Frame | null>}
     */
    read(timeoutMs?: number): Promise<Frame | null>;
    /** Stop receiving; a waiting `next` ends. */
    close(): Promise<void>;
    /** @returns {Promise<{done: true, value: undefined}>} */
    return(): Promise<{
        done: true;
        value: undefined;
    }>;
    [Symbol.asyncIterator](): this;
    [Symbol.asyncDispose](): Promise<void>;
    #private;
}
export type SubscriberOptions = {
    /**
     * name of the stream; default `live`
     */
    stream?: string | undefined;
    /**
     * true (default): always the newest frame, older ones are passed over. false: every frame, in order
     */
    latest?: boolean | undefined;
    /**
     * with `latest: false`: frames kept for a reader that falls behind, then the oldest go; default 64
     */
    queue?: number | undefined;
    /**
     * true: go on over the end of a run and wait for the next. false (default): the iterator ends with the run
     */
    follow?: boolean | undefined;
    /**
     * largest frame taken, coded or decoded; default 256 MiB
     */
    maxBytes?: number | undefined;
    /**
     * keys, where the publisher demands them
     */
    curve?: Curve | undefined;
};
/**
 * Z85 texts of 40 characters
 */
export type Curve = {
    serverKey: string;
    publicKey: string;
    secretKey: string;
};
export type Question = {
    resolve: (result: IteratorResult<Frame, undefined>) => void;
    reject: (error: Error) => void;
};
export type Counters = {
    /**
     * that came in
     */
    frames: number;
    /**
     * on the way
     */
    lost: number;
    /**
     * by the graph
     */
    dropped: number;
    /**
     * came in, and were passed over for newer ones
     */
    skipped: number;
    /**
     * messages that were none
     */
    malformed: number;
    /**
     * of the publisher
     */
    restarts: number;
};
import { Frame } from "./frame.js";
import { EventEmitter } from "node:events";
