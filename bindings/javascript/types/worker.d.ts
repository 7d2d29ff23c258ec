export namespace COUNTERS {
    let heard: number;
    let frames: number;
    let lost: number;
    let dropped: number;
    let skipped: number;
    let malformed: number;
    let restarts: number;
}
export class Receiver {
    /** @param {Setup} setup @param {(message: any, transfer?: ArrayBuffer[]) => void} post */
    constructor(setup: Setup, post: (message: any, transfer?: ArrayBuffer[]) => void);
    run(): Promise<void>;
    /** @param {Uint8Array[]} parts */
    message(parts: Uint8Array[]): void;
    ask(): void;
    /** Take a question back, where it is not answered yet. */
    cancel(): void;
    close(): void;
    #private;
}
export type Item = {
    header: import("./wire.js").Header;
    parts: Uint8Array[];
    gap: import("./frame.js").Gap;
    received: bigint;
    skipped: number;
};
export type Setup = {
    endpoint: string;
    stream: string;
    keep: number;
    maxBytes: number;
    counters: SharedArrayBuffer;
    follow: boolean;
    curve: {
        serverKey: string;
        publicKey: string;
        secretKey: string;
    } | null;
};
