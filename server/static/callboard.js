/**
 * Callboard's client for browsers and Node: conversations with agents that outlive connections, servers and pages.
 * It speaks protocol v1, which `server/PROTOCOL.md` describes.
 *
 *     const board = new Callboard("ws://127.0.0.1:8888");
 *     await board.open();
 *     for await (const frame of board.send("thread-1", "Hello")) {
 *       if (frame.type === "token") show(frame.value);
 *     }
 *
 * `Conversation` decides, without a socket; `Callboard` moves the texts.
 * @module callboard
 */

const BASE_DELAY_MS = 250;
const MOST_DELAY_MS = 10_000;
const OPEN_TIMEOUT_MS = 5_000;
const TICK_MS = 250;
const ACK_AFTER_MS = 1_000;
/** How long a message that the server is too busy for is sent again and again before its caller is told. */
const PATIENCE_MS = 30_000;
/** A cancel of another one's request is answered only if it cannot be: the server has it if the connection lasts so long. */
const CANCEL_SURE_MS = 2_000;
/** Frames that wait one by one; for a caller that takes longer, tokens are joined, and nobody else is held up. */
const MAX_APART = 64;
const PONG_TIMEOUT_MS = 8_000;
/** A connection on which nothing was asked for counts as a good one when it has lasted so long. */
const STEADY_MS = 5_000;
const FETCH_PAUSE_MS = 1_000;
const FETCH_TIMEOUT_MS = 10_000;
const EXPIRED_CODE = 4001;
const GAP_CODE = 4003;
const SOCKET_PATH = "/api/chat/ws";
const DEFAULT_LIMITS = { frameBytes: 65_536, messageBytes: 32_768, subscriptions: 256 };

/** What a caller gets when something does not work; `code` is one of the protocol, "closed" or "unreachable". */
export class CallboardError extends Error {
  constructor(code, message, { retryable = false, retryAfterMs, closeCode } = {}) {
    super(message);
    this.name = "CallboardError";
    this.code = code;
    this.retryable = retryable;
    this.retryAfterMs = retryAfterMs;
    this.closeCode = closeCode;
  }
}

/** Tell whether a close code means that connecting again is of no use. */
export function endsForGood(code) {
  return [1002, 1003, 1007, 1008, 1009].includes(code) || (code >= 4500 && code <= 4999);
}

/** Return how long to wait before attempt 0, 1, ... to connect: exponential, with full jitter. */
export function chooseDelayMs(attempt, random = Math.random) {
  return random() * Math.min(MOST_DELAY_MS, BASE_DELAY_MS * 2 ** Math.min(attempt, 16));
}

/** Tell whether a frame is the last one of its request. */
export function endsRequest(frame) {
  return frame.type === "message" || frame.type === "cancelled" || (frame.type === "error" && frame.terminal === true);
}

/** Return the place in a log that a storage kept; null if the text is none. */
export function parsePlace(text) {
  const parts = /^([0-9a-f]{1,32})\.([0-9]{1,16})$/.exec(text ?? "");
  return parts && Number.isSafeInteger(Number(parts[2])) ? { epoch: parts[1], seq: Number(parts[2]) } : null;
}

/** A client's place in a thread's log: what to apply, what to drop, when to acknowledge. */
export class ThreadLog {
  #acked = 0;
  #unackedCount = 0;
  #unackedSinceMs = null;

  /** `cursor` is null until the server has said where the log begins. */
  constructor(cursor = null, epoch = null) {
    this.cursor = cursor;
    this.epoch = epoch;
  }

  /** Say what to do with a frame: "apply" it, "drop" it, or close with 4003 and resume, for a "gap". */
  judge(frame) {
    const cursor = this.cursor ?? 0;
    if (frame.seq <= cursor) return "drop";
    return (frame.from ?? frame.seq) <= cursor + 1 ? "apply" : "gap";
  }

  /** Move on to a frame; returns true if it is time to acknowledge. */
  apply(frame, nowMs, ackEvery) {
    this.cursor = frame.seq;
    this.#unackedCount += 1;
    this.#unackedSinceMs ??= nowMs;
    return this.#unackedCount >= ackEvery || endsRequest(frame) || this.isAckDue(nowMs);
  }

  isAckDue(nowMs) {
    return this.#unackedSinceMs !== null && nowMs - this.#unackedSinceMs >= ACK_AFTER_MS;
  }

  /** Return what to acknowledge, up to `limit`; null if there is nothing new. */
  acknowledge(nowMs, limit = Infinity) {
    const seq = Math.min(this.cursor ?? 0, limit);
    this.#unackedCount = 0;
    this.#unackedSinceMs = seq === this.cursor ? null : nowMs;
    if (seq <= this.#acked) return null;
    this.#acked = seq;
    return seq;
  }

  /** The connection is gone, and with it perhaps the last acknowledgement. */
  resetAcks() {
    this.#acked = 0;
    this.#unackedCount = 0;
    this.#unackedSinceMs = null;
  }
}

/** Frames for one caller, in order. */
export class Inbox {
  #frames = [];
  #isEnded = false;
  #failure = null;
  #wake = null;

  /** `cursor` is the last effect put in; those up to it are not put in again. */
  constructor(cursor = 0) {
    this.cursor = cursor;
  }

  put(frame) {
    const last = this.#frames.length >= MAX_APART ? this.#frames.at(-1) : undefined;
    if (last?.type === "token" && frame.type === "token" && continues(last, frame)) {
      const value = last.value + frame.value;
      this.#frames[this.#frames.length - 1] = { ...last, value, seq: frame.seq, from: last.from ?? last.seq };
    } else {
      this.#frames.push(frame);
    }
    this.#notify();
  }

  /** Nothing more will come; what waits is still taken. */
  end(failure = null) {
    if (this.#isEnded) return;
    this.#isEnded = true;
    this.#failure = failure;
    this.#notify();
  }

  /** Return the next frame once there is one; null at the end. Throws what the inbox was ended with. */
  async take() {
    while (this.#frames.length === 0) {
      if (this.#isEnded) {
        if (this.#failure) throw this.#failure;
        return null;
      }
      await new Promise((resolve) => {
        this.#wake = resolve;
      });
    }
    return this.#frames.shift();
  }

  #notify() {
    this.#wake?.();
    this.#wake = null;
  }
}

function continues(before, after) {
  const isSame = before.requestId === after.requestId && before.attempt === after.attempt;
  return isSame && (after.from ?? after.seq) === before.seq + 1;
}

/** Return the frame that ended a request, from how HTTP tells it. */
function makeEnd(thread, said) {
  const about = { ...thread, seq: said.seq, requestId: said.requestId };
  if (said.status === "completed") {
    return { type: "message", ...about, message: said.message, latencyMs: said.latencyMs, tokenUsage: said.tokenUsage };
  }
  if (said.status === "cancelled") return { type: "cancelled", ...about, reason: "user" };
  return { type: "error", ...about, ...said.error, terminal: true };
}

/**
 * The client's side of the protocol, without a socket: what to send, and what a frame means for whom.
 *
 *     send ──> unsent ──connected──> unaccepted ──accepted──> accepted ──terminal frame──> (ended)
 *                 ^                      │  │ ^
 *                 └── connection lost ───┘  └─┘ overloaded: again, a little later
 *
 * Threads are `{threadId, agentId}`. What is to be sent goes to `post`, one object for each frame.
 */
export class Conversation {
  #topics = new Map();
  #post;
  #isConnected = false;
  #limits = DEFAULT_LIMITS;
  #ackEvery = 64;
  #hasFreed = false;
  /** Threads whose place is not one of their log: `resync` is to be told what HTTP says of them. */
  resyncing = new Map();
  #repeated = new Map(); // requests that the server had before, with the places of their events
  /** What the server said before it closes the connection. */
  goaway = null;

  constructor(post) {
    this.#post = post;
  }

  /** Say something; returns the inbox that the answer comes into. */
  say(thread, text, { requestId, onBusy = "enqueue", traceparent }) {
    const frame = { type: "message", ...thread, message: text, requestId, onBusy, traceparent };
    checkSize("message", text, this.#limits.messageBytes);
    checkSize("frame", JSON.stringify(frame), this.#limits.frameBytes);
    const topic = this.#open(thread);
    if (topic.requests.has(requestId)) throw new TypeError(`requestId: ${requestId} is under way already`);
    const request = { frame, inbox: new Inbox(), isAccepted: false, isCancelled: false, retryAtMs: null, refusedSinceMs: null };
    topic.requests.set(requestId, request);
    this.#subscribe(topic);
    if (topic.isSubscribed) this.#post(frame);
    return request.inbox;
  }

  /** Stop a request of any device. */
  cancel(thread, requestId) {
    const topic = this.#open(thread);
    const request = topic.requests.get(requestId);
    if (request) request.isCancelled = true;
    else topic.cancels.set(requestId, null);
    this.#subscribe(topic);
    if (topic.isSubscribed) this.#post({ type: "cancel", ...thread, requestId });
  }

  /**
   * Get everything of a thread above `after`; null for what the server chooses, or from now on if it is open.
   * A follower that `isKept` is acknowledged only up to what its caller has done with: see `keep`.
   */
  follow(thread, { after = null, epoch = null, isKept = false }) {
    const isNew = !this.#topics.has(keyOf(thread));
    const topic = this.#open(thread);
    if (isNew) {
      topic.log = new ThreadLog(after, epoch);
    } else if (after !== null && (topic.log.cursor === null || after < topic.log.cursor)) {
      if (topic.isSubscribed) this.#post({ type: "unsubscribe", ...thread });
      topic.isSubscribed = topic.isReady = false;
      topic.log = new ThreadLog(after, epoch ?? topic.log.epoch);
    }
    const follower = { inbox: new Inbox(after ?? topic.log.cursor ?? 0), doneSeq: isKept ? (after ?? 0) : Infinity };
    topic.followers.add(follower);
    this.#subscribe(topic);
    return follower;
  }

  /** A caller has done with a follower's frames up to `seq`: they may be acknowledged. */
  keep(thread, follower, seq, nowMs) {
    follower.doneSeq = seq;
    const topic = this.#topics.get(keyOf(thread));
    if (!topic?.isSubscribed) return;
    if ((topic.isAckHeld && seq >= topic.log.cursor) || topic.log.isAckDue(nowMs)) this.#acknowledge(topic, nowMs);
  }

  /** A caller does not wait any more. */
  leave(thread, inbox) {
    const topic = this.#topics.get(keyOf(thread));
    if (!topic) return;
    for (const follower of topic.followers) if (follower.inbox === inbox) topic.followers.delete(follower);
    for (const [id, request] of topic.requests) {
      if (request.inbox !== inbox) continue;
      topic.requests.delete(id);
      this.#repeated.delete(`${keyOf(thread)} ${id}`);
    }
    this.#hasFreed ||= isIdle(topic);
  }

  /** The name of a thread's log, if it is known. */
  findEpoch(thread) {
    return this.#topics.get(keyOf(thread))?.log.epoch ?? null;
  }

  /** A connection is there: subscribe, and send again what was not accepted. */
  connect() {
    this.#isConnected = true;
    this.goaway = null;
    for (const [key, topic] of [...this.#topics]) {
      if (isIdle(topic)) this.#topics.delete(key);
      else this.#resume(topic);
    }
  }

  /** The connection is gone. */
  disconnect() {
    this.#isConnected = false;
    this.resyncing.clear();
    for (const topic of this.#topics.values()) {
      topic.isSubscribed = topic.isReady = topic.isAckHeld = false;
      topic.log.resetAcks();
    }
  }

  /** There will be no other connection: tell everybody. */
  fail(failure) {
    for (const topic of this.#topics.values()) for (const inbox of inboxesOf(topic)) inbox.end(failure);
    this.#topics.clear();
  }

  /** Take a frame. Returns false if something is missing before it. */
  receive(frame, nowMs) {
    const isWhole = this.#take(frame, nowMs);
    if (this.#hasFreed) this.#admitWaiting();
    return isWhole;
  }

  /** Do what it is time for: acknowledgements, and messages that were to be sent again. */
  tick(nowMs) {
    if (this.#hasFreed) this.#admitWaiting();
    for (const topic of this.#topics.values()) {
      if (!topic.isSubscribed) continue;
      if (topic.log.isAckDue(nowMs)) this.#acknowledge(topic, nowMs);
      for (const [id, untilMs] of topic.cancels) {
        if (untilMs === null) topic.cancels.set(id, nowMs + CANCEL_SURE_MS);
        else if (untilMs <= nowMs) topic.cancels.delete(id);
        this.#hasFreed ||= isIdle(topic);
      }
      for (const request of topic.requests.values()) {
        if (request.retryAtMs !== null && request.retryAtMs <= nowMs) this.#send(request);
      }
    }
  }

  /** Go on in the log that there is, of which `snapshot` is what HTTP says; null if there is none any more. */
  resync(thread, snapshot) {
    this.resyncing.delete(keyOf(thread));
    for (const [key, repeat] of this.#repeated) if (keyOf(repeat.thread) === keyOf(thread)) this.#repeated.delete(key);
    const topic = this.#topics.get(keyOf(thread));
    if (!topic) return;
    const { head, epoch, messages, running } = snapshot ?? { head: 0, epoch: "0", messages: [], running: [] };
    topic.log = new ThreadLog(head, epoch);
    for (const follower of topic.followers) {
      follower.inbox.cursor = head;
      follower.inbox.put({ type: "resync", ...thread, epoch, head, reason: "epoch" });
    }
    for (const [id, request] of [...topic.requests]) {
      const ended = messages.find((said) => said.role === "agent" && said.requestId === id);
      const begun = running.find((said) => said.requestId === id);
      request.inbox.cursor = head;
      if (ended) {
        request.inbox.put(makeEnd(thread, ended));
        this.#end(topic, id);
      } else if (begun) {
        const about = { ...thread, seq: head, requestId: id };
        request.inbox.put({ type: "restarted", ...about, attempt: begun.attempt, reason: "resync" });
        if (begun.text) request.inbox.put({ type: "token", ...about, value: begun.text });
      } else {
        request.isAccepted = false; // that log is gone, and the request with it: it is sent again
      }
    }
    this.#resume(topic);
  }

  /** The requests whose end is to be looked up; not before the subscription has begun: what had not ended by then comes over it. */
  findRepeats() {
    return [...this.#repeated].filter(([, { thread }]) => this.#topics.get(keyOf(thread))?.isReady);
  }

  /**
   * A request that the server had before: `said` is how it ended; null if it had not, and its end will come.
   * It will come, too, if it is beyond what the log has given by now: behind all that goes before it.
   */
  settleRepeat(thread, requestId, said) {
    if (!this.#repeated.delete(`${keyOf(thread)} ${requestId}`)) return; // of a log that is gone, or nobody waits
    const topic = this.#topics.get(keyOf(thread));
    const request = topic?.requests.get(requestId);
    if (!request || !said || said.seq > (topic.log.cursor ?? 0)) return;
    request.inbox.put(makeEnd(thread, said));
    this.#end(topic, requestId);
  }

  #open(thread) {
    const key = keyOf(thread);
    let topic = this.#topics.get(key);
    if (!topic) {
      topic = { thread, log: new ThreadLog(), requests: new Map(), followers: new Set(), cancels: new Map() };
      Object.assign(topic, { isSubscribed: false, isReady: false, isAckHeld: false });
      this.#topics.set(key, topic);
    }
    return topic;
  }

  #subscribe(topic) {
    if (topic.isSubscribed || !this.#isConnected || this.resyncing.has(keyOf(topic.thread)) || !this.#makeRoom()) return;
    topic.isSubscribed = true;
    const { cursor, epoch } = topic.log;
    this.#post({ type: "subscribe", ...topic.thread, ...(cursor !== null && { after: cursor, ...(epoch !== null && { epoch }) }) });
  }

  #resume(topic) {
    this.#subscribe(topic);
    if (!topic.isSubscribed) return;
    for (const [requestId, request] of topic.requests) {
      if (!request.isAccepted) this.#send(request);
      if (request.isCancelled) this.#post({ type: "cancel", ...topic.thread, requestId });
    }
    for (const requestId of topic.cancels.keys()) {
      topic.cancels.set(requestId, null);
      this.#post({ type: "cancel", ...topic.thread, requestId });
    }
  }

  /** Leave the threads that nobody waits for, if there are as many as a connection may have; false if all are. */
  #makeRoom() {
    const subscribed = [...this.#topics.values()].filter((topic) => topic.isSubscribed);
    if (subscribed.length < this.#limits.subscriptions) return true;
    const idle = subscribed.filter(isIdle);
    for (const topic of idle) {
      this.#topics.delete(keyOf(topic.thread));
      this.#post({ type: "unsubscribe", ...topic.thread });
    }
    return idle.length > 0;
  }

  #admitWaiting() {
    this.#hasFreed = false;
    for (const topic of [...this.#topics.values()]) if (!topic.isSubscribed && !isIdle(topic)) this.#resume(topic);
  }

  #send(request) {
    request.retryAtMs = null;
    this.#post(request.frame);
  }

  #acknowledge(topic, nowMs) {
    const limit = Math.min(...[...topic.followers].map((follower) => follower.doneSeq));
    topic.isAckHeld = limit < topic.log.cursor;
    const seq = topic.log.acknowledge(nowMs, limit);
    if (seq !== null) this.#post({ type: "ack", ...topic.thread, seq });
  }

  #take(frame, nowMs) {
    if (frame.type === "hello") {
      this.#limits = { ...DEFAULT_LIMITS, ...frame.limits };
      this.#ackEvery = frame.ackEvery ?? this.#ackEvery;
    } else if (frame.type === "goaway") {
      this.goaway = frame;
    }
    const topic = this.#topics.get(keyOf(frame));
    if (!topic) return true;
    const request = topic.requests.get(frame.requestId);
    if (Number.isSafeInteger(frame.seq) && EFFECTS.has(frame.type)) return this.#takeEffect(topic, frame, nowMs);
    if (frame.type === "ready") {
      topic.isReady = true;
      topic.log.cursor = frame.after;
      topic.log.epoch = frame.epoch;
    } else if (frame.type === "resync") {
      topic.isSubscribed = topic.isReady = false;
      this.resyncing.set(keyOf(topic.thread), topic.thread);
    } else if (frame.type === "accepted" && request) {
      request.isAccepted = true;
      if (frame.duplicate) {
        const repeat = { thread: topic.thread, requestId: frame.requestId, eventSeq: frame.eventSeq };
        this.#repeated.set(`${keyOf(topic.thread)} ${frame.requestId}`, repeat);
      }
    } else if (frame.type === "error") {
      this.#takeRefusal(topic, request, frame, nowMs);
    }
    return true;
  }

  #takeEffect(topic, frame, nowMs) {
    if (!topic.isSubscribed) return true;
    const verdict = topic.log.judge(frame);
    if (verdict !== "apply") return verdict === "drop";
    for (const { inbox } of topic.followers) {
      if (frame.seq > inbox.cursor) {
        inbox.cursor = frame.seq;
        inbox.put(frame);
      }
    }
    const request = topic.requests.get(frame.requestId);
    if (request && frame.type !== "input" && frame.seq > request.inbox.cursor) {
      request.isAccepted = true; // or it would not be answered, though the word of it was lost
      request.inbox.cursor = frame.seq;
      request.inbox.put(frame);
      if (endsRequest(frame)) this.#end(topic, frame.requestId);
    }
    if (topic.log.apply(frame, nowMs, this.#ackEvery)) this.#acknowledge(topic, nowMs);
    return true;
  }

  #takeRefusal(topic, request, frame, nowMs) {
    const { code, message, retryable, retryAfterMs } = frame;
    const failure = new CallboardError(code, `${code}: ${message}`, { retryable, retryAfterMs });
    if (frame.requestId === undefined && topic.isSubscribed && !topic.isReady) {
      this.#topics.delete(keyOf(topic.thread)); // there is no such thread for us
      this.#hasFreed = true;
      for (const inbox of inboxesOf(topic)) inbox.end(failure);
      return;
    }
    if (!request || request.isAccepted) return; // a cancel that came too late, or nothing of ours
    if (code === "overloaded") {
      request.refusedSinceMs ??= nowMs;
      if (this.goaway) return; // the next connection sends it again
      if (nowMs - request.refusedSinceMs < PATIENCE_MS) {
        request.retryAtMs = nowMs + (retryAfterMs ?? 1000);
        return;
      }
    }
    this.#end(topic, frame.requestId, failure);
  }

  #end(topic, requestId, failure = null) {
    topic.requests.get(requestId).inbox.end(failure);
    topic.requests.delete(requestId);
    this.#hasFreed ||= isIdle(topic);
  }
}

const EFFECTS = new Set(["input", "token", "message", "restarted", "cancelled", "error"]);

const keyOf = ({ threadId, agentId }) => `${agentId}:${threadId}`;
const isIdle = (topic) => topic.requests.size === 0 && topic.followers.size === 0 && topic.cancels.size === 0;
const inboxesOf = (topic) => [...topic.requests.values(), ...topic.followers].map(({ inbox }) => inbox);

function checkSize(what, text, most) {
  const size = new TextEncoder().encode(text).length;
  if (size > most) throw new CallboardError("too_large", `${what}: has ${size} bytes, more than ${most}`);
}

/** Return the addresses of a server's endpoints. Throws a TypeError that says what is wrong with `url`. */
export function parseAddress(url, userId) {
  let parts;
  try {
    parts = new URL(url, globalThis.location?.href);
  } catch {
    throw new TypeError(`url: must be like ws://127.0.0.1:8888, not ${url}`);
  }
  const schemes = { "ws:": ["ws:", "http:"], "http:": ["ws:", "http:"], "wss:": ["wss:", "https:"], "https:": ["wss:", "https:"] };
  if (!(parts.protocol in schemes) || !parts.host || parts.username) {
    throw new TypeError(`url: must be like ws://127.0.0.1:8888, not ${url}`);
  }
  const [socketScheme, httpScheme] = schemes[parts.protocol];
  const base = `//${parts.host}${parts.pathname.replace(/\/+$/, "").replace(SOCKET_PATH, "").replace(/\/+$/, "")}`;
  const user = userId ?? parts.searchParams.get("userId");
  const query = user === null || user === undefined ? "" : `?${new URLSearchParams({ userId: user })}`;
  return { socket: `${socketScheme}${base}${SOCKET_PATH}${query}`, http: `${httpScheme}${base}/api`, userId: user };
}

/** A server, for one user. One connection serves all threads; when it is lost, another one is made. */
export class Callboard {
  #address;
  #agentId;
  #token;
  #storage;
  #WebSocket;
  #fetch;
  #random;
  #patienceMs;
  #conversation = new Conversation((frame) => this.#write(frame));
  #socket = null;
  #failure = null;
  #attempt = 0;
  #fetches = new Set();
  #waiters = [];
  #isWanted = false;
  #isConnected = false;
  #reconnectTimer;
  #tickTimer;
  #openTimer;
  #beganAtMs = 0;
  #heartbeatMs = 25_000;
  #heardAtMs = 0;
  #pingedAtMs = null;
  #lastError = "";
  #ended = new AbortController();

  constructor(url, options = {}) {
    this.#address = parseAddress(url, options.userId);
    this.#agentId = options.agentId;
    this.#token = options.token;
    this.#storage = options.storage;
    this.#WebSocket = options.WebSocket ?? globalThis.WebSocket;
    this.#fetch = options.fetch ?? globalThis.fetch?.bind(globalThis);
    this.#random = options.random ?? Math.random;
    this.#patienceMs = options.patienceMs ?? 10_000;
    if (!this.#WebSocket) throw new TypeError("WebSocket: there is none here; give one, as of the package ws");
    if (!this.#fetch) throw new TypeError("fetch: there is none here; give one");
  }

  get isConnected() {
    return this.#isConnected;
  }

  /** Connect. Rejects with a CallboardError if that takes longer than `patienceMs`, or the server refuses. */
  async open() {
    if (this.#failure) throw this.#failure;
    if (this.#isConnected) return;
    const opened = new Promise((resolve, reject) => this.#waiters.push({ resolve, reject }));
    if (!this.#isWanted) {
      this.#isWanted = true;
      const { signal } = this.#ended;
      globalThis.addEventListener?.("online", () => this.#isConnected || this.reconnect(), { signal });
      this.#connect();
    }
    const patience = setTimeout(() => {
      const why = this.#lastError ? ` (${this.#lastError})` : "";
      const hint = "is the server started, and the port right?";
      this.#fail(new CallboardError("unreachable", `${this.#address.socket} cannot be reached${why}; ${hint}`));
    }, this.#patienceMs);
    try {
      await opened;
    } finally {
      clearTimeout(patience);
    }
  }

  /** Disconnect; requests run on at the server. Callers that still wait get a CallboardError. */
  close() {
    this.#fail(new CallboardError("closed", "the connection was closed by its caller", { closeCode: 1000 }));
  }

  /** Drop the connection and make another one at once, as when the network has become another one. */
  reconnect() {
    if (!this.#isWanted || this.#failure) return;
    this.#lose();
    this.#attempt = 0;
    this.#connect();
  }

  /** Say something, and iterate over the answer; it ends with `message`, `cancelled`, or an agent's `error`. */
  async *send(thread, text, { requestId = makeId(), onBusy = "enqueue", traceparent } = {}) {
    const place = await this.findThread(thread);
    const inbox = this.#conversation.say(place, text, { requestId, onBusy, traceparent });
    try {
      for (let frame; (frame = await inbox.take()) !== null; ) yield frame;
    } finally {
      this.#conversation.leave(place, inbox);
    }
  }

  /** Say something, and return the `message` that answers it; throws if the answer is an error, or was cancelled. */
  async ask(thread, text, options = {}) {
    let last;
    for await (const frame of this.send(thread, text, options)) last = frame;
    if (last?.type === "message") return last;
    if (last?.type === "error") throw new CallboardError(last.code, last.message, { retryable: last.retryable });
    throw new CallboardError("cancelled", "the request was cancelled");
  }

  /** Stop a request, of this client or another one. */
  async cancel(thread, requestId) {
    this.#conversation.cancel(await this.findThread(thread), requestId);
  }

  /**
   * Iterate over a thread's log, what is stored and then what comes, whoever says it, without end.
   *
   * Without `after` it goes on where the storage says that the last `follow` of this thread was; without a storage, or
   * for a thread that it does not know, from the beginning. A frame counts as done when the next one is asked for: then
   * the place is stored, and after that acknowledged. So a page that is closed or reloaded in between gets the frame
   * again, and misses none. A `resync` says that the log is another one: read the thread anew.
   */
  async *follow(thread, { after, epoch } = {}) {
    const place = await this.findThread(thread);
    const isKept = after === undefined && this.#storage !== undefined;
    const name = `callboard:${this.#address.userId ?? ""}:${keyOf(place)}`;
    const kept = isKept ? parsePlace(this.#storage.getItem(name)) : null;
    const from = kept ? { after: kept.seq, epoch: kept.epoch } : { after: after === undefined ? 0 : after, epoch };
    const follower = this.#conversation.follow(place, { ...from, isKept });
    try {
      for (let frame; (frame = await follower.inbox.take()) !== null; ) {
        yield frame;
        const seq = frame.type === "resync" ? frame.head : frame.seq;
        const log = frame.epoch ?? this.#conversation.findEpoch(place);
        if (isKept && log !== null) this.#storage.setItem(name, `${log}.${seq}`);
        this.#conversation.keep(place, follower, isKept ? seq : Infinity, Date.now());
      }
    } finally {
      this.#conversation.leave(place, follower.inbox);
    }
  }

  /** Return what was said in a thread, and what is under way, as `GET /api/threads/...` gives it; null if there is none. */
  async read(thread, { before, limit = 50 } = {}) {
    const { agentId, threadId } = await this.findThread(thread);
    return this.#get(["threads", agentId, threadId], { before, limit });
  }

  /** Return a thread with its agent: the server's default one, if none was given. */
  async findThread(thread) {
    this.#requireOpen();
    if (typeof thread !== "string") return { threadId: thread.threadId, agentId: thread.agentId };
    for (let attempt = 0; this.#agentId === undefined; attempt += 1) {
      this.#requireOpen();
      try {
        this.#agentId = (await this.#get(["agents"]))?.default;
        if (this.#agentId === undefined) throw new CallboardError("closed", `${this.#address.http} tells no agents`);
      } catch (error) {
        if (error.code !== "unreachable") throw error;
        await new Promise((resolve) => setTimeout(resolve, chooseDelayMs(attempt, this.#random)));
      }
    }
    return { threadId: thread, agentId: this.#agentId };
  }

  #requireOpen() {
    if (this.#failure) throw this.#failure;
    if (!this.#isWanted) throw new CallboardError("closed", "not connected: call `await board.open()` first");
  }

  #fail(failure) {
    if (this.#failure) return;
    this.#failure = failure;
    this.#ended.abort();
    this.#lose();
    clearTimeout(this.#reconnectTimer);
    this.#conversation.fail(failure);
    for (const { reject } of this.#waiters.splice(0)) reject(failure);
  }

  // The connection

  async #connect() {
    clearTimeout(this.#reconnectTimer);
    const attempt = {}; // stands for the socket until there is one, so that a later attempt is told from this one
    this.#socket = attempt;
    let token;
    try {
      token = await this.#findToken();
    } catch (error) {
      if (this.#socket === attempt) this.#retry(error.message);
      return;
    }
    if (this.#socket !== attempt || this.#failure) return;
    let socket;
    try {
      const protocols = token === undefined ? ["callboard.v1"] : ["callboard.v1", `bearer.${encodeToken(token)}`];
      socket = new this.#WebSocket(this.#address.socket, protocols);
    } catch (error) {
      this.#fail(new CallboardError("unreachable", `${this.#address.socket} cannot be connected to: ${error.message}`));
      return;
    }
    this.#socket = socket;
    const isOurs = () => this.#socket === socket;
    this.#openTimer = setTimeout(() => isOurs() && this.#retry("no answer in time"), OPEN_TIMEOUT_MS);
    socket.onmessage = ({ data }) => isOurs() && this.#receive(data);
    socket.onerror = ({ message }) => {
      this.#lastError = message || this.#lastError;
    };
    socket.onclose = ({ code, reason }) => isOurs() && this.#takeClose(code, reason);
  }

  #takeClose(code, reason) {
    const hasExpired = code === EXPIRED_CODE && typeof this.#token !== "function"; // and there will be no other token
    if (endsForGood(code) || hasExpired) {
      const message = `the connection was closed for good: ${code} ${reason}`.trimEnd();
      this.#fail(new CallboardError("closed", message, { closeCode: code }));
    } else {
      this.#retry(`closed: ${code} ${reason}`.trimEnd());
    }
  }

  /** Make another connection, a little later. */
  #retry(why) {
    this.#lastError ||= why;
    const askedMs = this.#conversation.goaway?.reconnectAfterMs ?? 0;
    this.#lose();
    this.#reconnectTimer = setTimeout(() => this.#connect(), askedMs + chooseDelayMs(this.#attempt, this.#random));
    this.#attempt += 1;
  }

  #lose(code = undefined) {
    const socket = this.#socket;
    this.#socket = null; // its events are nobody's from here on: a dead one may take minutes to tell of its end
    this.#isConnected = false;
    clearInterval(this.#tickTimer);
    clearTimeout(this.#openTimer);
    this.#conversation.disconnect();
    if (socket?.close) {
      socket.onerror = () => {};
      socket.close(code ?? 1000);
    }
  }

  #write(frame) {
    if (this.#isConnected) this.#socket.send(JSON.stringify(frame));
  }

  #receive(data) {
    const frame = parseFrame(data);
    if (!frame) {
      this.#retry("a frame that is none of the protocol");
      return;
    }
    this.#heardAtMs = Date.now();
    this.#pingedAtMs = null;
    if (!this.#isConnected && frame.type === "hello") this.#begin(frame);
    if (frame.type === "ready") this.#attempt = 0; // a good connection: the waits begin anew
    if (this.#conversation.receive(frame, Date.now())) {
      this.#settleByHttp();
    } else {
      this.#lose(GAP_CODE);
      this.#retry("a gap in seq");
    }
  }

  #begin(hello) {
    clearTimeout(this.#openTimer);
    this.#heartbeatMs = hello.heartbeatMs || this.#heartbeatMs;
    this.#isConnected = true;
    this.#beganAtMs = Date.now();
    this.#lastError = "";
    this.#tickTimer = setInterval(() => this.#tick(), TICK_MS);
    this.#conversation.connect();
    for (const { resolve } of this.#waiters.splice(0)) resolve();
  }

  #tick() {
    const nowMs = Date.now();
    if (nowMs - this.#beganAtMs > STEADY_MS) this.#attempt = 0;
    this.#conversation.tick(nowMs);
    this.#settleByHttp();
    if (this.#pingedAtMs !== null && nowMs - this.#pingedAtMs > PONG_TIMEOUT_MS) {
      this.#retry("no pong");
    } else if (this.#pingedAtMs === null && nowMs - this.#heardAtMs > this.#heartbeatMs) {
      this.#pingedAtMs = nowMs;
      this.#write({ type: "ping", ts: nowMs });
    }
  }

  // HTTP: what only it tells

  #settleByHttp() {
    for (const [key, thread] of this.#conversation.resyncing) {
      this.#settle(`resync ${key}`, async () => {
        const snapshot = await this.#get(["threads", thread.agentId, thread.threadId], { limit: 100 });
        this.#conversation.resync(thread, snapshot);
      });
    }
    for (const [key, { thread, requestId, eventSeq }] of this.#conversation.findRepeats()) {
      this.#settle(`repeat ${key}`, async () => {
        this.#conversation.settleRepeat(thread, requestId, await this.#readEnd(thread, eventSeq));
      });
    }
  }

  /** Do something beside, unless it is under way; where the server cannot, a later tick begins again. */
  async #settle(name, work) {
    if (this.#fetches.has(name)) return;
    this.#fetches.add(name);
    try {
      await work();
    } catch (error) {
      if (error.code === "unreachable") await new Promise((resolve) => setTimeout(resolve, FETCH_PAUSE_MS));
      else this.#fail(error);
    } finally {
      this.#fetches.delete(name);
    }
  }

  /** Return the token to use now; throws if there should be one and is none for now. */
  async #findToken() {
    try {
      return typeof this.#token === "function" ? await this.#token() : this.#token;
    } catch (error) {
      throw new CallboardError("unreachable", `token: could not be had: ${error?.message ?? error}`, { retryable: true });
    }
  }

  async #readEnd(thread, eventSeq) {
    for (let before; ; ) {
      const page = await this.#get(["threads", thread.agentId, thread.threadId], { before, limit: 100 });
      const answers = (page?.messages ?? []).filter(({ role }) => role === "agent");
      const found = answers.find((said) => said.eventSeq === eventSeq);
      before = page?.before ?? undefined;
      if (found || before === undefined || answers.some((said) => said.eventSeq < eventSeq)) return found ?? null;
    }
  }

  async #get(path, query = {}) {
    const given = Object.entries({ ...query, userId: this.#address.userId ?? undefined }).filter(([, value]) => value !== undefined);
    const url = `${this.#address.http}/${path.map(encodeURIComponent).join("/")}?${new URLSearchParams(given)}`;
    const token = await this.#findToken();
    const headers = token === undefined ? {} : { Authorization: `Bearer ${token}` };
    let response;
    try {
      response = await this.#fetch(url, { headers, signal: AbortSignal.timeout(FETCH_TIMEOUT_MS) });
      if (response.ok) return await response.json();
    } catch (error) {
      throw new CallboardError("unreachable", `${url} cannot be read: ${error.message}`, { retryable: true });
    }
    if (response.status === 404) return null;
    const mayPass = response.status >= 500 || [408, 421, 425, 429].includes(response.status);
    throw new CallboardError(mayPass ? "unreachable" : "closed", `${url}: ${response.status} ${response.statusText}`);
  }
}

/** Return the object that a text holds; null if it holds none. */
function parseFrame(text) {
  try {
    const frame = JSON.parse(text);
    return typeof frame === "object" ? frame : null;
  } catch {
    return null;
  }
}

/** Return a fresh request id. `crypto.randomUUID` is for secure contexts only, which a page over http is not. */
function makeId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Return a token as base64url without padding. */
function encodeToken(token) {
  const bytes = String.fromCharCode(...new TextEncoder().encode(token));
  return btoa(bytes).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");
}
