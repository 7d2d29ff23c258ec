export class Rings {
    /** @param {string} [folder]  where the system shows shared memory */
    constructor(folder?: string);
    /**
     * @param {import("./wire.js").Shm} place
     * @returns {Uint8Array} a copy of the frame
     */
    copy(place: import("./wire.js").Shm): Uint8Array;
    close(): void;
    #private;
}
