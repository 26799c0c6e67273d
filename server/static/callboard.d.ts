/** Types of `callboard.js`, which says what everything does. */

export interface Thread {
  threadId: string;
  agentId: string;
}

interface Effect extends Thread {
  seq: number;
  from?: number;
  requestId?: string;
}

export interface Token extends Effect {
  type: "token";
  value: string;
  attempt?: number;
}

export interface Message extends Effect {
  type: "message";
  message: string;
  latencyMs: number;
  tokenUsage: { promptTokens: number; completionTokens: number; totalTokens: number };
  attempt?: number;
}

export interface Restarted extends Effect {
  type: "restarted";
  attempt: number;
  reason: string;
}

export interface Cancelled extends Effect {
  type: "cancelled";
  reason: string;
  attempt?: number;
}

export interface AgentError extends Effect {
  type: "error";
  code: string;
  message: string;
  retryable: boolean;
  terminal: true;
  retryAfterMs?: number;
  attempt?: number;
}

export interface Input extends Effect {
  type: "input";
  message: string;
}

export interface Resync extends Thread {
  type: "resync";
  epoch: string;
  head: number;
  reason: string;
}

/** What an answer is made of: `message`, `cancelled` and `error` end it. */
export type AnswerFrame = Token | Message | Restarted | Cancelled | AgentError;

/** What a thread's log is made of. */
export type LogFrame = AnswerFrame | Input | Resync;

/** What `localStorage` and `sessionStorage` are. */
export interface PlaceStorage {
  getItem(name: string): string | null;
  setItem(name: string, value: string): void;
}

export interface CallboardOptions {
  /** Who asks; left out for the server's default, or if `token` tells. */
  userId?: string;
  /** Who is asked where a thread is given by its id alone; left out for the server's default agent. */
  agentId?: string;
  /** A JSON Web Token, where the server wants one; or what makes one, called before each connection and each HTTP request. */
  token?: string | (() => string | Promise<string>);
  /** Where `follow` keeps its place. */
  storage?: PlaceStorage;
  /** A WebSocket class, where there is none: the one of the package ws, in Node before 22. */
  WebSocket?: new (url: string, protocols: string[]) => unknown;
  fetch?: typeof fetch;
  /** A number from 0 to 1, each time another one, by which waits before an attempt to connect are shortened. */
  random?: () => number;
  /** How long the first connection may take, all attempts together; 10,000 if left out. */
  patienceMs?: number;
}

export interface SendOptions {
  /** Unique in the thread. The same one with the same text runs once, however often it is sent. */
  requestId?: string;
  /** Whether to wait behind others of the thread, or to be refused with `busy`. */
  onBusy?: "enqueue" | "reject";
  /** W3C Trace Context: the caller's span, if the server's spans are to be in its trace. */
  traceparent?: string;
}

export class CallboardError extends Error {
  readonly code: string;
  readonly retryable: boolean;
  readonly retryAfterMs?: number;
  /** The WebSocket close code, if the connection was closed for good. */
  readonly closeCode?: number;
}

export class Callboard {
  constructor(url: string, options?: CallboardOptions);
  readonly isConnected: boolean;
  open(): Promise<void>;
  close(): void;
  reconnect(): void;
  send(thread: Thread | string, text: string, options?: SendOptions): AsyncGenerator<AnswerFrame, void>;
  ask(thread: Thread | string, text: string, options?: SendOptions): Promise<Message>;
  cancel(thread: Thread | string, requestId: string): Promise<void>;
  /** `after` is the `seq` of the last frame that the caller has, 0 for all, null for what no device has had yet. */
  follow(
    thread: Thread | string,
    options?: { after?: number | null; epoch?: string },
  ): AsyncGenerator<LogFrame, void>;
  read(thread: Thread | string, options?: { before?: number; limit?: number }): Promise<Record<string, unknown> | null>;
  findThread(thread: Thread | string): Promise<Thread>;
}
