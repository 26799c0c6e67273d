/** The parts of the JavaScript client that decide without a socket. */
import assert from "node:assert/strict";
import test from "node:test";
import {
  CallboardError,
  Conversation,
  Inbox,
  ThreadLog,
  chooseDelayMs,
  endsForGood,
  parseAddress,
  parsePlace,
} from "../../../server/static/callboard.js";

const THREAD = { threadId: "t", agentId: "echo" };

/** A conversation, and the frames that it posted since it was asked last. */
function converse() {
  let posted = [];
  const talk = new Conversation((frame) => posted.push(frame));
  const takePosted = () => posted.splice(0);
  return { talk, takePosted, takeTypes: () => takePosted().map((frame) => frame.type) };
}

/** A conversation that waits for the answer to request r1, which is the thread's second effect. */
function ask() {
  const made = converse();
  made.talk.connect();
  made.inbox = made.talk.say(THREAD, "Hello", { requestId: "r1" });
  made.talk.receive({ type: "ready", ...THREAD, epoch: "a1", after: 0, head: 0, active: [] }, 0);
  return made;
}

test("each effect of the log is applied once", () => {
  const log = new ThreadLog(4, "a1");
  assert.equal(log.judge({ seq: 4 }), "drop");
  assert.equal(log.judge({ seq: 7 }), "gap");
  assert.equal(log.judge({ from: 5, seq: 7 }), "apply");
  log.apply({ type: "token", from: 5, seq: 7 }, 0, 64);
  assert.equal(log.judge({ from: 6, seq: 8 }), "apply");
  assert.equal(log.cursor, 7);
});

test("acknowledged is each end, and else every so many frames or after a second", () => {
  const log = new ThreadLog(0, "a1");
  assert.equal(log.apply({ type: "token", seq: 1 }, 0, 3), false);
  assert.equal(log.apply({ type: "token", seq: 2 }, 999, 3), false);
  assert.equal(log.apply({ type: "token", seq: 3 }, 999, 3), true);
  assert.deepEqual([log.acknowledge(999), log.acknowledge(999)], [3, null]);
  assert.equal(log.apply({ type: "token", seq: 4 }, 1000, 3), false);
  assert.deepEqual([log.isAckDue(1999), log.isAckDue(2000)], [false, true]);
  assert.equal(log.apply({ type: "message", seq: 5 }, 1001, 3), true);
});

test("a place in storage is read, nonsense is not", () => {
  assert.deepEqual(parsePlace("a1.7"), { epoch: "a1", seq: 7 });
  for (const text of [null, undefined, "", "a1", "a1.-1", "x.1", "a1.9999999999999999"]) assert.equal(parsePlace(text), null);
});

test("waits grow up to ten seconds", () => {
  const waits = [0, 1, 5, 6, 2000].map((attempt) => chooseDelayMs(attempt, () => 1));
  assert.deepEqual(waits, [250, 500, 8000, 10_000, 10_000]);
  assert.equal(chooseDelayMs(9, () => 0), 0);
});

test("only faults that another connection would repeat end for good", () => {
  assert.deepEqual([1002, 1003, 1007, 1008, 1009, 4500, 4502, 4999].map(endsForGood), Array(8).fill(true));
  assert.deepEqual([1000, 1006, 1011, 1012, 1013, 4002, 4003, 4004, 5000].map(endsForGood), Array(9).fill(false));
});

test("an address may be of either scheme, with a path before the endpoint", () => {
  const { socket, http } = parseAddress("https://chat.example/base/", "me & you");
  assert.equal(socket, "wss://chat.example/base/api/chat/ws?userId=me+%26+you");
  assert.equal(http, "https://chat.example/base/api");
  assert.equal(parseAddress("ws://127.0.0.1:8888/api/chat/ws?userId=ada").userId, "ada");
  for (const url of ["ftp://host", "no address", "ws://user:secret@host"]) {
    assert.throws(() => parseAddress(url), { name: "TypeError", message: /^url: must be like/ });
  }
});

test("a caller that takes long gets tokens joined, and everything", async () => {
  const inbox = new Inbox();
  for (let seq = 1; seq <= 200; seq += 1) inbox.put({ type: "token", requestId: "r1", value: `${seq} `, seq });
  inbox.end();

  const taken = [];
  for (let frame = await inbox.take(); frame !== null; frame = await inbox.take()) taken.push(frame);

  assert.equal(taken.length, 64);
  assert.deepEqual([taken.at(-1).from, taken.at(-1).seq], [64, 200]);
  assert.equal(taken.map((frame) => frame.value).join(""), Array.from({ length: 200 }, (_, at) => `${at + 1} `).join(""));
});

test("what was not accepted is sent again on the next connection, under the same id", () => {
  const { talk, takePosted, takeTypes } = ask();
  assert.deepEqual(takeTypes(), ["subscribe", "message"]);
  talk.disconnect();
  talk.connect();

  const [subscribe, message] = takePosted();
  assert.deepEqual([subscribe.after, subscribe.epoch, message.requestId], [0, "a1", "r1"]);
  talk.receive({ type: "accepted", ...THREAD, requestId: "r1", eventSeq: 1, position: 0, duplicate: false }, 0);
  talk.disconnect();
  talk.connect();
  assert.deepEqual(takeTypes(), ["subscribe"]);
});

test("an answer comes to who asked, once, and is acknowledged", async () => {
  const { talk, inbox, takePosted } = ask();
  takePosted();
  const token = { type: "token", ...THREAD, requestId: "r1", value: "Hi", from: 1, seq: 2 };
  const end = { type: "message", ...THREAD, requestId: "r1", message: "Hi", seq: 3 };
  for (const frame of [token, token, end]) assert.equal(talk.receive(frame, 0), true);

  assert.deepEqual([await inbox.take(), await inbox.take(), await inbox.take()], [token, end, null]);
  assert.deepEqual(takePosted(), [{ type: "ack", ...THREAD, seq: 3 }]);
});

test("a missing frame is told", () => {
  const { talk } = ask();
  assert.equal(talk.receive({ type: "token", ...THREAD, requestId: "r1", value: "Hi", seq: 2 }, 0), false);
});

test("an overloaded server is asked again when it says so, and not for ever", async () => {
  const { talk, inbox, takeTypes } = ask();
  takeTypes();
  const refusal = { type: "error", ...THREAD, requestId: "r1", code: "overloaded", message: "full", retryable: true, retryAfterMs: 500 };
  talk.receive(refusal, 0);
  talk.tick(499);
  assert.deepEqual(takeTypes(), []);
  talk.tick(500);
  assert.deepEqual(takeTypes(), ["message"]);

  talk.receive(refusal, 30_000);
  await assert.rejects(inbox.take(), (failure) => failure instanceof CallboardError && failure.code === "overloaded");
});

test("a message beyond the limits is refused before it is sent", () => {
  const { talk, takeTypes } = converse();
  assert.throws(() => talk.say(THREAD, "x".repeat(32_769), { requestId: "r1" }), { code: "too_large" });
  assert.throws(() => talk.say(THREAD, "€".repeat(10_923), { requestId: "r1" }), { code: "too_large" });
  assert.deepEqual(takeTypes(), []);
});

test("a follower that keeps its place acknowledges what its caller has done with", () => {
  const { talk, takePosted } = converse();
  talk.connect();
  const follower = talk.follow(THREAD, { after: 0, epoch: "a1", isKept: true });
  talk.receive({ type: "ready", ...THREAD, epoch: "a1", after: 0, head: 1, active: [] }, 0);
  takePosted();
  talk.receive({ type: "message", ...THREAD, requestId: "r9", message: "Hi", seq: 1 }, 0);
  assert.deepEqual(takePosted(), []);
  talk.keep(THREAD, follower, 1, 0);
  assert.deepEqual(takePosted(), [{ type: "ack", ...THREAD, seq: 1 }]);
});

test("a request whose log is gone is sent again, one that ended meanwhile ends", async () => {
  const { talk, inbox, takeTypes } = ask();
  talk.receive({ type: "accepted", ...THREAD, requestId: "r1", eventSeq: 1, position: 0, duplicate: false }, 0);
  const other = talk.say(THREAD, "Again", { requestId: "r2" });
  takeTypes();
  talk.receive({ type: "resync", ...THREAD, epoch: "b2", head: 9, reason: "epoch" }, 0);
  const said = { role: "agent", requestId: "r1", seq: 4, status: "completed", message: "Hi", latencyMs: 1, tokenUsage: {} };
  talk.resync(THREAD, { head: 9, epoch: "b2", messages: [said], running: [] });

  assert.equal((await inbox.take()).message, "Hi");
  assert.equal(await inbox.take(), null);
  assert.deepEqual(takeTypes(), ["subscribe", "message"]);
  talk.fail(new CallboardError("closed", "closed"));
  await assert.rejects(other.take(), { code: "closed" });
});

const SAID = { role: "agent", requestId: "r1", eventSeq: 1, seq: 3, status: "completed", message: "Hi", latencyMs: 1, tokenUsage: {} };
const REPEAT = { type: "accepted", ...THREAD, requestId: "r1", eventSeq: 1, position: 0, duplicate: true };

test("a repeat that ended before its subscription is looked up, over any connection", async () => {
  const { talk } = converse();
  talk.connect();
  const inbox = talk.say(THREAD, "Hello", { requestId: "r1" });
  talk.receive(REPEAT, 0);
  assert.equal(talk.findRepeats().length, 0);
  talk.receive({ type: "ready", ...THREAD, epoch: "a1", after: 7, head: 7, active: [] }, 0);
  assert.equal(talk.findRepeats().length, 1);
  talk.disconnect();
  talk.connect();
  assert.equal(talk.findRepeats().length, 0);
  talk.receive({ type: "ready", ...THREAD, epoch: "a1", after: 7, head: 7, active: [] }, 0);
  talk.settleRepeat(THREAD, "r1", SAID);

  assert.equal((await inbox.take()).seq, 3);
  assert.equal(await inbox.take(), null);
});

test("a repeat whose end is still to come is not ended ahead of its tokens", async () => {
  const { talk, inbox } = ask();
  talk.receive(REPEAT, 0);
  talk.receive({ type: "token", ...THREAD, requestId: "r1", value: "H", from: 1, seq: 2 }, 0);
  talk.settleRepeat(THREAD, "r1", SAID);
  talk.receive({ type: "message", ...THREAD, requestId: "r1", message: "Hi", seq: 3 }, 0);

  assert.deepEqual([(await inbox.take()).seq, (await inbox.take()).seq, await inbox.take()], [2, 3, null]);
});

test("a message names its caller's span, also when it is sent again", () => {
  const { talk, takePosted } = converse();
  talk.connect();
  talk.say(THREAD, "Hello", { requestId: "r1", traceparent: "00-1-2-01" });
  assert.equal(takePosted().at(-1).traceparent, "00-1-2-01");
  talk.disconnect();
  talk.connect();
  assert.equal(takePosted().at(-1).traceparent, "00-1-2-01");
  talk.say(THREAD, "Hello", { requestId: "r2" });
  assert.equal(JSON.parse(JSON.stringify(takePosted().at(-1))).traceparent, undefined);
});
