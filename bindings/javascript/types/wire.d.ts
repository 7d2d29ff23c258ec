/**
 * @typedef {"Image" | "Mask" | "Latent" | "Pose" | "Prompt" | "Scalar" | "Text" | "Data"} PayloadType
 * @typedef {"raw" | "jpeg" | "png" | "h264" | "msgpack" | "shm"} Encoding
 * @typedef {"uint8" | "float16" | "float32" | "int32"} DType
 * @typedef {{name: string, slot: number, offset: number, bytes: number, mark: bigint}} Shm
 *
 * @typedef {object} FrameHeader
 * @property {"frame"} kind
 * @property {string} stream
 * @property {string} run      changes when the publisher is restarted
 * @property {number} n        frames sent before this one
 * @property {bigint} sent     ns, CLOCK_REALTIME
 * @property {number} seq      the source's ordinal of the frame
 * @property {number} epoch
 * @property {bigint} pts      ns on the graph's clock
 * @property {bigint} born     ns, CLOCK_REALTIME: when it was captured
 * @property {number} params   parameter version
 * @property {number} flags    KEY, DISCONTINUITY, DEGRADED
 * @property {PayloadType} type
 * @property {Encoding} enc
 * @property {DType | ""} dtype
 * @property {number[]} shape
 * @property {"hwc" | "chw" | ""} layout
 * @property {Record<string, string>} color
 * @property {number[]} size
 * @property {Shm | null} shm
 * @property {Record<string, number>} lat
 * @property {Record<string, unknown>} meta
 *
 * @typedef {{kind: "beat", stream: string, run: string, n: number, sent: bigint, fps: number, state: string, meta: Record<string, unknown>}} Beat
 * @typedef {{kind: "end", stream: string, run: string, n: number, sent: bigint, reason: string, meta: Record<string, unknown>}} End
 * @typedef {FrameHeader | Beat | End} Header
 */
/** @param {string} stream @returns {string} the topic of a stream */
export function topic(stream: string): string;
/** @param {string} dtype @param {readonly number[]} shape @returns {number} bytes of an array; exact for every shape that a header may have */
export function arrayBytes(dtype: string, shape: readonly number[]): number;
/**
 * A header's map as a header, every field checked. Throws WireError.
 *
 * @param {unknown} raw  what MessagePack (or JSON) gave
 * @param {{maxBytes?: number}} [limits]
 * @returns {Header}
 */
export function checkHeader(raw: unknown, { maxBytes }?: {
    maxBytes?: number;
}): Header;
/**
 * That the payload parts are as many and as long as the header says. Throws WireError.
 *
 * @param {FrameHeader} header
 * @param {readonly ArrayBufferView[]} parts
 */
export function checkParts(header: FrameHeader, parts: readonly ArrayBufferView[]): void;
/** @param {unknown} value @returns {value is Record<string, unknown>} */
export function isMap(value: unknown): value is Record<string, unknown>;
/** @param {Record<string, unknown>} raw @param {string} key @param {number} most @param {number} length @returns {number[]} */
export function counts(raw: Record<string, unknown>, key: string, most: number, length: number): number[];
/** @param {string} key @param {unknown} value @returns {number} */
export function asNumber(key: string, value: unknown): number;
/** @param {Record<string, unknown>} raw @param {string} key @param {number} [most] @returns {string} */
export function text(raw: Record<string, unknown>, key: string, most?: number): string;
/**
 * A value with every bigint that a number holds exactly turned into one: MessagePack gives bigint for each integer stored in 64 bits.
 *
 * @param {unknown} value
 * @returns {unknown}
 */
export function plainNumbers(value: unknown): unknown;
export const VERSION: 1;
export const MAX_HEADER: number;
export const MAX_PARTS: 8;
export const MAX_BYTES: number;
export const MAX_PLAIN: number;
/** Flags of a frame. */
export const KEY: 1;
export const DISCONTINUITY: 2;
export const DEGRADED: 4;
export type PayloadType = "Image" | "Mask" | "Latent" | "Pose" | "Prompt" | "Scalar" | "Text" | "Data";
export type Encoding = "raw" | "jpeg" | "png" | "h264" | "msgpack" | "shm";
export type DType = "uint8" | "float16" | "float32" | "int32";
export type Shm = {
    name: string;
    slot: number;
    offset: number;
    bytes: number;
    mark: bigint;
};
export type FrameHeader = {
    kind: "frame";
    stream: string;
    /**
     * changes when the publisher is restarted
     */
    run: string;
    /**
     * frames sent before this one
     */
    n: number;
    /**
     * ns, CLOCK_REALTIME
     */
    sent: bigint;
    /**
     * the source's ordinal of the frame
     */
    seq: number;
    epoch: number;
    /**
     * ns on the graph's clock
     */
    pts: bigint;
    /**
     * ns, CLOCK_REALTIME: when it was captured
     */
    born: bigint;
    /**
     * parameter version
     */
    params: number;
    /**
     * KEY, DISCONTINUITY, DEGRADED
     */
    flags: number;
    type: PayloadType;
    enc: Encoding;
    dtype: DType | "";
    shape: number[];
    layout: "hwc" | "chw" | "";
    color: Record<string, string>;
    size: number[];
    shm: Shm | null;
    lat: Record<string, number>;
    meta: Record<string, unknown>;
};
export type Beat = {
    kind: "beat";
    stream: string;
    run: string;
    n: number;
    sent: bigint;
    fps: number;
    state: string;
    meta: Record<string, unknown>;
};
export type End = {
    kind: "end";
    stream: string;
    run: string;
    n: number;
    sent: bigint;
    reason: string;
    meta: Record<string, unknown>;
};
export type Header = FrameHeader | Beat | End;
