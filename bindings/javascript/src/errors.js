/** What can go wrong, one class each. All of them are `AfterimageError`. */

export class AfterimageError extends Error {
  /** @param {string} message @param {ErrorOptions} [options] */
  constructor(message, options) {
    super(message, options);
    this.name = this.constructor.name;
  }
}

/** A message that does not follow the wire format, or exceeds this reader's limits. `key` names what is wrong. */
export class WireError extends AfterimageError {
  /** @param {string} key @param {string} message */
  constructor(key, message) {
    super(key ? `${key}: ${message}` : message);
    this.key = key;
  }
}

/** The publisher speaks a version of the format that this reader does not know. Waiting does not help: update the client. */
export class VersionError extends WireError {}

/** A frame in shared memory was written over while it was read: what was read is thrown away. Take the next frame. */
export class OverwrittenError extends AfterimageError {}

/** The engine refused a request, or could not do what it had accepted. Nothing of a refused change was applied. */
export class RefusedError extends AfterimageError {
  /**
   * @param {string} message
   * @param {{type?: string, expected?: unknown, found?: unknown, fix?: string, problems?: unknown, failed?: boolean}} [facts]
   */
  constructor(message, facts = {}) {
    super(message);
    /** Name of the engine's error. */
    this.type = facts.type ?? "";
    this.expected = facts.expected;
    this.found = facts.found;
    /** What would help, in words. */
    this.fix = facts.fix ?? "";
    /** Parameter path to reason, for `set` and `ramp`; a list with file and line for `reload`. */
    this.problems = facts.problems;
    /** True where the change had been accepted and then failed. */
    this.failed = facts.failed ?? false;
  }
}

/** No answer in time. Whether a change landed is unknown: ask with `get`. */
export class TimeoutError extends AfterimageError {}

/** The connection ended with requests open. Whether their changes landed is unknown: ask with `get`. */
export class ConnectionError extends AfterimageError {}
