export { Control } from "./control.js";
export { Frame } from "./frame.js";
export { Subscriber } from "./subscriber.js";
export { Receipt } from "./verbs.js";
export { AfterimageError, ConnectionError, OverwrittenError, RefusedError, TimeoutError, VersionError, WireError } from "./errors.js";
export { DEGRADED, DISCONTINUITY, KEY } from "./wire.js";
