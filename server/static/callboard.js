/**
 * Callboard's protocol v1 for browsers and Node: the pure core, which does no I/O. `server/PROTOCOL.md` describes the wire.
 * @module callboard
 */

const BASE_DELAY_MS = 250;
const MOST_DELAY_MS = 10_000;

/** What a request ends with, or is refused with. */
export class CallboardError extends Error {
  /**
   * @param {string} code An error code of the protocol.
   * @param {string} message
   * @param {{retryable?: boolean, retryAfterMs?: number, closeCode?: number}} [about]
   */
  constructor(code, message, about = {}) {
    super(message);
    this.name = "CallboardError";
    this.code = code;
    this.retryable = about.retryable ?? false;
    this.retryAfterMs = about.retryAfterMs;
    this.closeCode = about.closeCode;
  }
}

/**
 * Tell whether a close code means that connecting again is of no use.
 * @param {number} code
 * @returns {boolean}
 */
export function endsForGood(code) {
  return code === 1003 || code === 1008 || code === 1009 || (code >= 4500 && code <= 4999);
}

/**
 * Return how long to wait before the next attempt to connect: exponential, with full jitter.
 * @param {number} attempt From 0.
 * @param {() => number} [random] From 0 to below 1.
 * @returns {number} Milliseconds, at most 10,000.
 */
export function chooseDelayMs(attempt, random = Math.random) {
  return random() * Math.min(MOST_DELAY_MS, BASE_DELAY_MS * 2 ** Math.min(attempt, 16));
}

/** Where a client is in a thread's log. */
export class Place {
  /**
   * @param {number} cursor The last effect that was applied.
   * @param {string} epoch The log's name.
   */
  constructor(cursor, epoch) {
    this.cursor = cursor;
    this.epoch = epoch;
  }

  /**
   * Take a frame of the log; after "gap", close with 4003 and resume.
   * @param {{seq: number, from?: number}} frame
   * @returns {"apply" | "drop" | "gap"}
   */
  take(frame) {
    if (frame.seq <= this.cursor) return "drop";
    if ((frame.from ?? frame.seq) > this.cursor + 1) return "gap";
    this.cursor = frame.seq;
    return "apply";
  }

  /** @returns {string} What a storage keeps. */
  toString() {
    return `${this.epoch}.${this.cursor}`;
  }

  /**
   * Return the place that a storage kept; null if it is none.
   * @param {string | null} text
   * @returns {Place | null}
   */
  static parse(text) {
    const parts = /^([0-9a-f]{1,32})\.([0-9]{1,16})$/.exec(text ?? "");
    return parts && Number.isSafeInteger(Number(parts[2])) ? new Place(Number(parts[2]), parts[1]) : null;
  }
}
