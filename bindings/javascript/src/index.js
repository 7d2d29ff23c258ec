/** Programs in Node that plug into a running Afterimage graph: read its frames, change its parameters. */

export { Control } from "./control.js";
export { AfterimageError, ConnectionError, OverwrittenError, RefusedError, TimeoutError, VersionError, WireError } from "./errors.js";
export { Frame } from "./frame.js";
export { Subscriber } from "./subscriber.js";
export { Receipt } from "./verbs.js";
export { DEGRADED, DISCONTINUITY, KEY } from "./wire.js";
