/**
 * Frames in shared memory, read by copying (docs/wire.md, "Shared memory"). The mark before a slot's data is read before and after the copy;
 * what changed meanwhile is thrown away. Linux shows shared memory as files below /dev/shm; elsewhere there is no way to it without a native
 * module, so there it is refused: publish with `transport = "tcp"` for such readers.
 */

import { closeSync, constants, fstatSync, openSync, readSync } from "node:fs";

import { AfterimageError, OverwrittenError, WireError } from "./errors.js";

const HEAD = 64;
const MOST = 4;

export class Rings {
  /** @param {string} [folder]  where the system shows shared memory */
  constructor(folder = "/dev/shm") {
    this.#folder = folder;
  }

  #folder;
  /** @type {Map<string, {fd: number, size: number}>} */
  #open = new Map();

  /**
   * @param {import("./wire.js").Shm} place
   * @returns {Uint8Array} a copy of the frame
   */
  copy(place) {
    const ring = this.#ring(place.name);
    if (place.offset + place.bytes > ring.size) throw new WireError("shm", `${place.name} ends before byte ${place.offset + place.bytes}`);
    const bytes = new Uint8Array(place.bytes);
    this.#check(ring.fd, place);
    for (let at = 0; at < place.bytes; ) {
      const got = readSync(ring.fd, bytes, at, place.bytes - at, place.offset + at);
      if (got === 0) throw new WireError("shm", `${place.name} became shorter`);
      at += got;
    }
    this.#check(ring.fd, place);
    return bytes;
  }

  /** @param {string} name */
  #ring(name) {
    const known = this.#open.get(name);
    if (known) return known;
    if (process.platform !== "linux") throw new AfterimageError(`shared memory cannot be read on ${process.platform} from Node: publish with transport = "tcp"`);
    let fd;
    try {
      fd = openSync(`${this.#folder}/${name}`, constants.O_RDONLY | constants.O_NOFOLLOW);
    } catch (error) {
      throw new AfterimageError(`there is no ring ${name} on this host: has the publisher ended, or does it run on another one?`, { cause: error });
    }
    for (const [old, ring] of this.#open) {
      if (this.#open.size < MOST) break;
      closeSync(ring.fd);
      this.#open.delete(old);
    }
    const ring = { fd, size: fstatSync(fd).size };
    this.#open.set(name, ring);
    return ring;
  }

  /** @param {number} fd @param {import("./wire.js").Shm} place */
  #check(fd, place) {
    const mark = Buffer.alloc(8);
    readSync(fd, mark, 0, 8, place.offset - HEAD);
    if (mark.readBigUInt64LE() !== place.mark) throw new OverwrittenError(`frame ${place.mark} is no longer in slot ${place.slot}`);
  }

  close() {
    for (const { fd } of this.#open.values()) closeSync(fd);
    this.#open.clear();
  }
}
