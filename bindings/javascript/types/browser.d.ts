/**
 * Draws the frames of a Preview on a canvas, until it ends: h264 by VideoDecoder, jpeg by createImageBitmap.
 *
 * @param {Preview} preview
 * @param {HTMLCanvasElement} canvas
 * @param {(frame: Frame) => void} [drawn]  called after each picture
 */
export function show(preview: Preview, canvas: HTMLCanvasElement, drawn?: (frame: Frame) => void): Promise<void>;
export { Frame } from "./frame.js";
export { Receipt } from "./verbs.js";
/**
 * @typedef {object} PreviewOptions
 * @property {string} [token]               as `engine run` printed it; may also stand in the address
 * @property {("h264" | "jpeg")[]} [codecs] best first; default: h264 where VideoDecoder exists, then jpeg
 * @property {string | null} [of]           an output such as `paint.image`; default the main one; null: no pictures, control alone
 * @property {number} [timeoutMs]           for the first answer to a request; default 5000
 */
/** @implements {AsyncIterable<Frame>} */
export class Preview extends Verbs implements AsyncIterable<Frame> {
    /** @param {string} address  what `engine run --preview` printed, `http://127.0.0.1:8600/?token=...` @param {PreviewOptions} [options] */
    constructor(address: string, { token, codecs, of, timeoutMs }?: PreviewOptions);
    /** Settles when the connection stands and the first view was answered. */
    ready: Promise<any>;
    /** Messages that were no frames. */
    malformed: number;
    /** What may be viewed: names of outputs, and which is the main one. @type {{of: string, main: boolean}[]} */
    outputs: {
        of: string;
        main: boolean;
    }[];
    /**
     * Choose what is shown. @param {string} [of]  absent: the main output; "": nothing @returns {Promise<import("./verbs.js").Answer>}
     */
    view(of?: string): Promise<import("./verbs.js").Answer>;
    /** Start or end a recording, or only ask. @param {boolean} [on] @returns {Promise<import("./verbs.js").Answer>} */
    record(on?: boolean): Promise<import("./verbs.js").Answer>;
    /** Compare clocks; `ageOf` is exact to half the way there and back from then on (Cristian 1989). @returns {Promise<number>} ms the server is ahead */
    syncClock(): Promise<number>;
    /** Milliseconds since a frame was captured, by the server's clock. @param {Frame} frame */
    ageOf(frame: Frame): number;
    /**
     * The next frame: of jpeg the newest there is, of h264 the next in order. Asking for it tells the server that the one before has been dealt
     * with, so that a slow page gets fewer frames, never older ones.
     *
     * @returns {Promise<IteratorResult<Frame, undefined>>}
     */
    next(): Promise<IteratorResult<Frame, undefined>>;
    /** End the connection; a waiting `next` ends. */
    close(): void;
    /** @returns {Promise<{done: true, value: undefined}>} */
    return(): Promise<{
        done: true;
        value: undefined;
    }>;
    [Symbol.asyncIterator](): this;
    #private;
}
export type PreviewOptions = {
    /**
     * as `engine run` printed it; may also stand in the address
     */
    token?: string | undefined;
    /**
     * best first; default: h264 where VideoDecoder exists, then jpeg
     */
    codecs?: ("jpeg" | "h264")[] | undefined;
    /**
     * an output such as `paint.image`; default the main one; null: no pictures, control alone
     */
    of?: string | null | undefined;
    /**
     * for the first answer to a request; default 5000
     */
    timeoutMs?: number | undefined;
};
import { Frame } from "./frame.js";
import { Verbs } from "./verbs.js";
export { AfterimageError, ConnectionError, RefusedError, TimeoutError, VersionError, WireError } from "./errors.js";
export { DEGRADED, DISCONTINUITY, KEY } from "./wire.js";
