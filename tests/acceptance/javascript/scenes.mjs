// Plays one scene with the client: node scenes.mjs MODULE SCENE ARGUMENTS. Prints a line of JSON for each thing to check.

import { readFileSync, writeFileSync } from "node:fs";
import { EventSource } from "eventsource";
import WebSocket from "ws";

const [modulePath, scene, argumentsText] = process.argv.slice(2);
const { Callboard, CallboardError } = await import(modulePath);
const given = JSON.parse(argumentsText);
const print = (thing) => process.stdout.write(`${JSON.stringify(thing)}\n`);

/** A storage that outlives the process. */
class FileStorage {
  #file;
  #items = {};

  constructor(file) {
    this.#file = file;
    try {
      this.#items = JSON.parse(readFileSync(file, "utf8"));
    } catch {
      // none yet
    }
  }

  getItem(name) {
    return this.#items[name] ?? null;
  }

  setItem(name, value) {
    this.#items[name] = value;
    writeFileSync(this.#file, JSON.stringify(this.#items));
  }
}

const random = given.isHasty ? () => 0 : Math.random;
const makeBoard = (options = {}) =>
  new Callboard(given.url, { agentId: "metronome", WebSocket, random, ...given.options, ...options });

async function describeFailure(work) {
  try {
    await work();
    return null;
  } catch (error) {
    const { code, message, closeCode, retryable } = error;
    return { isOurs: error instanceof CallboardError, kind: error.name, code, message, closeCode, retryable };
  }
}

const scenes = {
  /** Asks with tokens that expire, of which the second cannot be had; prints the answer's frames, and how many there were. */
  async tokens() {
    let count = 0;
    const token = async () => {
      count += 1;
      if (count === 2) throw new Error("the product's own server is away");
      const response = await fetch(given.tokens);
      return response.text();
    };
    const board = makeBoard({ token });
    await board.open();
    const frames = [];
    for await (const frame of board.send(given.thread, given.text)) frames.push(frame);
    board.close();
    print(frames);
    print(count);
  },

  /** Prints how a board fails whose only token does not do. */
  async badToken() {
    print(await describeFailure(() => makeBoard({ token: given.token }).open()));
  },

  /** Asks one after the other, and prints each answer's frames. */
  async answers() {
    const board = makeBoard();
    await board.open();
    for (let number = 0; number < given.count; number += 1) {
      const frames = [];
      for await (const frame of board.send(given.thread, given.text, { requestId: `r${number}` })) frames.push(frame);
      print(frames);
    }
    board.close();
  },

  /** Asks in many threads at once. */
  async threads() {
    const board = makeBoard();
    await board.open();
    const asking = Array.from({ length: given.count }, (_, number) => board.ask(`${given.thread}-${number}`, given.text));
    print((await Promise.all(asking)).map(({ message }) => message));
    board.close();
  },

  /** Prints a line at the tenth frame, and the whole answer at its end. */
  async longAnswer() {
    const board = makeBoard();
    await board.open();
    const frames = [];
    for await (const frame of board.send(given.thread, given.text, { requestId: "r1" })) {
      frames.push(frame);
      if (frames.length === 10) print("ten");
    }
    print(frames);
    board.close();
  },

  /** Follows a thread with a storage; the process ends without warning behind `count` frames. */
  async follow() {
    const board = makeBoard({ storage: new FileStorage(given.storage) });
    await board.open();
    let count = 0;
    for await (const frame of board.follow(given.thread)) {
      if (count === given.count) process.exit(0);
      print(frame);
      count += 1;
    }
  },

  async cancel() {
    const board = makeBoard();
    await board.open();
    await board.cancel(given.thread, given.requestId);
    await new Promise((resolve) => setTimeout(resolve, 100));
    board.close();
    print("done");
  },

  /** Lets one answer lie while others are taken. */
  async slowCaller() {
    const board = makeBoard();
    await board.open();
    const slow = board.send(given.thread, given.text);
    const frames = [(await slow.next()).value];
    for (let number = 0; number < 5; number += 1) await board.ask(`${given.thread}-${number}`, given.text);
    for await (const frame of slow) frames.push(frame);
    print(frames);
    board.close();
  },

  async failures() {
    const board = makeBoard();
    print(await describeFailure(() => board.ask(given.thread, "x")));
    await board.open();
    await board.ask(given.thread, given.text, { requestId: "r1" });
    print(await describeFailure(() => board.ask(given.thread, "other words", { requestId: "r1" })));
    print(await describeFailure(() => board.ask(given.thread, "")));
    print(await describeFailure(() => board.ask(given.thread, "x".repeat(40000))));
    print(await describeFailure(() => board.ask({ threadId: given.thread, agentId: "nobody" }, "Hello")));
    const waiting = describeFailure(() => board.ask(given.thread, given.slowText));
    await new Promise((resolve) => setTimeout(resolve, 100));
    board.close();
    print(await waiting);
  },

  async opening() {
    print(await describeFailure(() => makeBoard({ patienceMs: 2000 }).open()));
  },

  async badOptions() {
    print(await describeFailure(async () => new Callboard("ftp://x", { WebSocket })));
    globalThis.WebSocket = undefined; // newer versions of Node have one
    print(await describeFailure(async () => new Callboard("ws://h")));
  },

  async repeat() {
    for (let round = 0; round < 2; round += 1) {
      const board = makeBoard({ agentId: "echo" });
      await board.open();
      print((await board.ask(given.thread, "once", { requestId: "r1" })).message);
      print((await board.ask(given.thread, "other")).message);
      board.close();
    }
  },

  async defaultAgent() {
    const board = makeBoard({ agentId: undefined });
    await board.open();
    print((await board.ask(given.thread, "Hello")).agentId);
    print((await board.read(given.thread)).messages.length);
    board.close();
  },

  /** The npm package's EventSource, to which Callboard is nothing special. */
  async eventSource() {
    const source = new EventSource(given.url);
    source.onmessage = ({ data, lastEventId }) => {
      const frame = JSON.parse(data);
      if (frame.seq !== undefined && frame.type !== "replay_complete") print({ id: lastEventId, frame });
    };
  },
};

await scenes[scene]();
