/**
 * What has been missed: `n` tells of frames lost on the way, `seq` of frames that the graph dropped (docs/wire.md).
 * Fed every message of one stream, in the order in which they came.
 */
/** @typedef {{kind: string, run: string, n: number, seq?: number, epoch?: number}} Counted */
export class Tally {
    frames: number;
    lost: number;
    dropped: number;
    restarts: number;
    /** @type {string | null} */
    run: string | null;
    /**
     * @param {Counted} header
     * @returns {import("./frame.js").Gap} what is missing before this message
     */
    add(header: Counted): import("./frame.js").Gap;
    #private;
}
export type Counted = {
    kind: string;
    run: string;
    n: number;
    seq?: number;
    epoch?: number;
};
