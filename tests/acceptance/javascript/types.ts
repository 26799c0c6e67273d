// Is only checked, never run: what a caller writes passes `tsc --strict`.

import { Callboard, CallboardError, type Message, type Thread } from "../../../server/static/callboard.js";

const board = new Callboard("ws://127.0.0.1:8888", { userId: "u", token: async () => "t", storage: localStorage });
const thread: Thread = await board.findThread("t");
let text = "";
try {
  await board.open();
  for await (const frame of board.send(thread, "Hello", { onBusy: "reject" })) {
    switch (frame.type) {
      case "token":
        text += frame.value;
        break;
      case "restarted":
        text = "";
        break;
      case "message":
        text = frame.message;
        break;
      case "cancelled":
      case "error":
        text += frame.type === "error" ? frame.code : frame.reason;
    }
  }
  const answer: Message = await board.ask("t", "Hello", { traceparent: "00-1-2-01" });
  text = `${answer.message} ${answer.tokenUsage.totalTokens}`;
  for await (const frame of board.follow("t", { after: null })) {
    if (frame.type === "resync") text = `${frame.epoch} ${frame.head}`;
    else if (frame.type === "input") text = frame.message;
  }
} catch (error) {
  if (error instanceof CallboardError && error.retryable) text = `${error.code} ${error.closeCode}`;
} finally {
  board.close();
}
export { text };
