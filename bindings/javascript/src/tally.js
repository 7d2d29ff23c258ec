/**
 * What has been missed: `n` tells of frames lost on the way, `seq` of frames that the graph dropped (docs/wire.md).
 * Fed every message of one stream, in the order in which they came.
 */

/** @typedef {{kind: string, run: string, n: number, seq?: number, epoch?: number}} Counted */

export class Tally {
  frames = 0;
  lost = 0;
  dropped = 0;
  restarts = 0;
  /** @type {string | null} */
  run = null;
  #next = 0;
  #seq = -1;
  /** @type {number | undefined} */
  #epoch;

  /**
   * @param {Counted} header
   * @returns {import("./frame.js").Gap} what is missing before this message
   */
  add(header) {
    const restarted = this.run !== null && this.run !== header.run;
    const known = this.run === header.run;
    let lost = 0;
    let dropped = 0;
    if (!known) {
      this.run = header.run;
      this.#seq = -1;
      if (restarted) this.restarts++;
    } else {
      lost = Math.max(0, header.n - this.#next);
      if (header.seq !== undefined && this.#seq >= 0 && header.epoch === this.#epoch) dropped = Math.max(0, header.seq - this.#seq - 1 - lost - this.#unseen);
    }
    // Frames whose loss a beat told of: the next frame's step of seq covers them too.
    this.#unseen = header.kind === "frame" ? 0 : known ? this.#unseen + lost : 0;
    this.#next = header.kind === "frame" ? header.n + 1 : header.n;
    if (header.seq !== undefined) {
      this.#seq = header.seq;
      this.#epoch = header.epoch;
    }
    if (header.kind === "frame") this.frames++;
    this.lost += lost;
    this.dropped += dropped;
    return { lost, dropped, restarted };
  }

  #unseen = 0;
}
