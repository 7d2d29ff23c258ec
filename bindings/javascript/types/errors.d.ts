/** What can go wrong, one class each. All of them are `AfterimageError`. */
export class AfterimageError extends Error {
    /** @param {string} message @param {ErrorOptions} [options] */
    constructor(message: string, options?: ErrorOptions);
}
/** A message that does not follow the wire format, or exceeds this reader's limits. `key` names what is wrong. */
export class WireError extends AfterimageError {
    /** @param {string} key @param {string} message */
    constructor(key: string, message: string);
    key: string;
}
/** The publisher speaks a version of the format that this reader does not know. Waiting does not help: update the client. */
export class VersionError extends WireError {
}
/** A frame in shared memory was written over while it was read: what was read is thrown away. Take the next frame. */
export class OverwrittenError extends AfterimageError {
}
/** The engine refused a request, or could not do what it had accepted. Nothing of a refused change was applied. */
export class RefusedError extends AfterimageError {
    /**
     * @param {string} message
     * @param {{type?: string, expected?: unknown, found?: unknown, fix?: string, problems?: unknown, failed?: boolean}} [facts]
     */
    constructor(message: string, facts?: {
        type?: string;
        expected?: unknown;
        found?: unknown;
        fix?: string;
        problems?: unknown;
        failed?: boolean;
    });
    /** Name of the engine's error. */
    type: string;
    expected: unknown;
    found: unknown;
    /** What would help, in words. */
    fix: string;
    /** Parameter path to reason, for `set` and `ramp`; a list with file and line for `reload`. */
    problems: unknown;
    /** True where the change had been accepted and then failed. */
    failed: boolean;
}
/** No answer in time. Whether a change landed is unknown: ask with `get`. */
export class TimeoutError extends AfterimageError {
}
/** The connection ended with requests open. Whether their changes landed is unknown: ask with `get`. */
export class ConnectionError extends AfterimageError {
}
