/**
 * @typedef {Uint8Array | Float32Array | Int32Array} Elements
 * @typedef {{people: Float32Array, n: number, size: [number, number], stability: number | null}} Pose
 *   `people` holds n x 18 x 3 numbers: x and y of 0 to 1, and confidence; `size` is [height, width]
 * @typedef {{text: string, negative: string, blend: number}} Prompt
 * @typedef {{lost: number, dropped: number, restarted: boolean}} Gap
 *   what is missing between the frame before and this one: `lost` on the way, `dropped` by the graph; `restarted`: another run
 */
/** @returns {bigint} now, ns since 1970, to compare with `born` and `sent` */
export function now(): bigint;
/** @param {string} dtype @param {Uint8Array} bytes @returns {Elements} */
export function elements(dtype: string, bytes: Uint8Array): Elements;
/** A frame. All fields of the header (docs/wire.md) are properties of it. */
export class Frame {
    /**
     * @param {import("./wire.js").FrameHeader} header
     * @param {Uint8Array[]} parts
     * @param {{gap?: Gap, skipped?: number, received?: bigint, unpack?: (bytes: Uint8Array) => unknown, elements?: () => Uint8Array}} [more]
     */
    constructor(header: import("./wire.js").FrameHeader, parts: Uint8Array[], more?: {
        gap?: Gap;
        skipped?: number;
        received?: bigint;
        unpack?: (bytes: Uint8Array) => unknown;
        elements?: () => Uint8Array;
    });
    stream: string;
    run: string;
    n: number;
    sent: bigint;
    seq: number;
    epoch: number;
    pts: bigint;
    born: bigint;
    params: number;
    flags: number;
    type: import("./wire.js").PayloadType;
    enc: import("./wire.js").Encoding;
    dtype: "" | import("./wire.js").DType;
    shape: number[];
    layout: "" | "hwc" | "chw";
    color: Record<string, string>;
    shm: import("./wire.js").Shm | null;
    lat: Record<string, number>;
    meta: Record<string, unknown>;
    /** Payload parts as they came. */
    parts: Uint8Array<ArrayBufferLike>[];
    /** Frames lost on the way just before this one. */
    lost: number;
    /** Frames that the graph dropped just before this one. */
    dropped: number;
    /** The publisher was restarted since the frame before. */
    restarted: boolean;
    /** Frames that came and were passed over because this newer one was there when somebody asked. */
    skipped: number;
    /** Of a key frame of h264 over the preview's WebSocket: what VideoDecoder.configure wants. */
    codec: string;
    /** When it came in, ns since 1970. */
    received: bigint;
    get key(): boolean;
    get discontinuity(): boolean;
    get degraded(): boolean;
    /** Milliseconds from capture until it was sent. */
    get ageMs(): number;
    /** Milliseconds from capture until now; across hosts as good as their clocks agree. */
    get latencyMs(): number;
    /** Milliseconds from send to receipt. */
    get transitMs(): number;
    /**
     * The payload's bytes: of a raw array its elements, of jpeg and png one file, of h264 one access unit. From shared memory it is a copy;
     * throws OverwrittenError where a newer frame has taken its place.
     *
     * @returns {Uint8Array}
     */
    get bytes(): Uint8Array;
    /**
     * The elements of an array that was sent raw or lies in shared memory, in C order of `shape`. float16 comes widened to float32, exactly.
     * A view of the payload where its alignment allows, else a copy.
     *
     * @returns {Elements}
     */
    array(): Elements;
    /**
     * The value of a Pose, Prompt, Scalar, Text or Data; throws WireError where the payload is not what the type says.
     *
     * @returns {Pose | Prompt | number | string | Record<string, unknown>}
     */
    value(): Pose | Prompt | number | string | Record<string, unknown>;
    /** The header as a plain map, for logs. */
    toJSON(): Omit<this, "bytes" | "value" | "key" | "parts" | "discontinuity" | "degraded" | "ageMs" | "latencyMs" | "transitMs" | "array" | "toJSON"> & {
        bytes: number;
        ageMs: number;
    };
    #private;
}
export type Elements = Uint8Array | Float32Array | Int32Array;
/**
 * `people` holds n x 18 x 3 numbers: x and y of 0 to 1, and confidence; `size` is [height, width]
 */
export type Pose = {
    people: Float32Array;
    n: number;
    size: [number, number];
    stability: number | null;
};
export type Prompt = {
    text: string;
    negative: string;
    blend: number;
};
/**
 * what is missing between the frame before and this one: `lost` on the way, `dropped` by the graph; `restarted`: another run
 */
export type Gap = {
    lost: number;
    dropped: number;
    restarted: boolean;
};
