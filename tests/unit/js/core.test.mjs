import assert from "node:assert/strict";
import test from "node:test";
import { Place, chooseDelayMs, endsForGood } from "../../../server/static/callboard.js";

test("each place of the log is applied once", () => {
  const place = new Place(4, "a1");
  assert.equal(place.take({ seq: 4 }), "drop");
  assert.equal(place.take({ seq: 7 }), "gap");
  assert.equal(place.take({ from: 5, seq: 7 }), "apply");
  assert.equal(place.take({ from: 6, seq: 8 }), "apply");
  assert.equal(place.cursor, 8);
});

test("a place survives its storage, nonsense does not", () => {
  assert.deepEqual(Place.parse(String(new Place(7, "a1"))), new Place(7, "a1"));
  for (const text of [null, "", "a1", "a1.-1", "x.1", "a1.9999999999999999"]) assert.equal(Place.parse(text), null);
});

test("waits grow up to ten seconds", () => {
  const waits = [0, 1, 5, 6, 2000].map((attempt) => chooseDelayMs(attempt, () => 1));
  assert.deepEqual(waits, [250, 500, 8000, 10_000, 10_000]);
  assert.equal(chooseDelayMs(9, () => 0), 0);
});

test("only a client's own faults end for good", () => {
  assert.deepEqual([1003, 1008, 1009, 4500, 4502, 4999].map(endsForGood), Array(6).fill(true));
  assert.deepEqual([1000, 1006, 1011, 1012, 1013, 4002, 4003, 4004, 5000].map(endsForGood), Array(9).fill(false));
});
