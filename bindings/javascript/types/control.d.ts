/**
 * @typedef {object} ControlOptions
 * @property {number} [timeoutMs]  for the first answer to a request; default 5000
 * @property {import("./subscriber.js").Curve} [curve]
 */
export const ENDPOINT: "tcp://127.0.0.1:5570";
export class Control extends Verbs {
    /** @param {string} [endpoint] @param {ControlOptions} [options] */
    constructor(endpoint?: string, { timeoutMs, curve }?: ControlOptions);
    endpoint: string;
    /** Let the last requests leave, for a second at most, and end the connection. Open receipts reject at once. */
    close(): void;
    [Symbol.dispose](): void;
    #private;
}
export type ControlOptions = {
    /**
     * for the first answer to a request; default 5000
     */
    timeoutMs?: number | undefined;
    curve?: import("./subscriber.js").Curve | undefined;
};
import { Verbs } from "./verbs.js";
