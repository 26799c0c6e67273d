"""Judges a run by its record and the tables: plain data in, violations out. Pure."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from scripts.chaos import witness
from storage.node_store import OWNER_PREFIX

Line = Mapping[str, Any]
Tables = Mapping[str, Sequence[tuple[Any, ...]]]

TERMINAL: Final = ("message", "cancelled", "error")

QUERIES: Final[Mapping[str, str]] = {
    "events": "SELECT session_key, seq, type, request_id, payload->>'message' FROM events ORDER BY session_key, seq",
    "effects": "SELECT session_key, seq, payload, dedupe_key, status, checkpoint_id::text FROM effects "
    "ORDER BY session_key, seq",
    "sessions": "SELECT session_key, last_event_seq, processed_event_seq, last_effect_seq, epoch FROM sessions",
    "turns": "SELECT session_key, event_seq, attempt, status FROM turns ORDER BY session_key, event_seq, attempt",
    "checkpoints": "SELECT session_key, checkpoint_id::text, event_seq FROM checkpoints",
    "witnessed": witness.QUERY,
}
"""What it reads of the tables, by name."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of a run.

    Attributes:
        violations: What is not as it must be, by invariant.
        counts: What was looked at.
        missing: What should have come about and did not: then nothing is proved.
    """

    violations: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    missing: list[str] = field(default_factory=list)


def judge(record: Sequence[Line], tables: Tables, faults: Mapping[str, int]) -> Verdict:
    """Check the invariants I1-I10 of the design.

    Args:
        record: The recorder's lines, in order.
        tables: What `QUERIES` gave, by their names.
        faults: How often each fault struck that was tried.
    """
    verdict = Verdict()
    counts = verdict.counts
    counts.update(line["kind"] for line in record)
    counts["rows"] = sum(map(len, tables.values()))
    verdict.violations.extend(
        [
            *check_events(record, tables),
            *check_effects(tables),
            *check_writers(tables),
            *check_turns(tables),
            *check_frames(record, tables),
            *check_users(record),
            *check_requests(record, tables),
        ]
    )
    needed = {
        "faults": sum(faults.values()),
        **{f"{name} that struck": count for name, count in faults.items()},
        "unknown outcomes": counts["unknown"],
        "connections lost": counts["lost"],
        "answers": counts["ok"],
        "witnessed writes": len(tables["witnessed"]),
    }
    if "kill" in faults:
        hands = {(key, owner) for key, _, _, _, _, owner, _ in tables["witnessed"]}
        needed["sessions that changed hands"] = len(hands) - len({key for key, _ in hands})
    verdict.missing.extend(name for name, count in needed.items() if not count)
    return verdict


def check_events(record: Sequence[Line], tables: Tables) -> list[str]:
    """I1, I2: what was accepted is there once, numbered without a gap, and nothing is that was refused."""
    found: list[str] = []
    stored: dict[tuple[str, str], str] = {}
    seqs: defaultdict[str, list[int]] = defaultdict(list)
    for key, seq, kind, request_id, text in tables["events"]:
        seqs[key].append(seq)
        if kind == "user_message":
            if (key, request_id) in stored:
                found.append(f"I1: {request_id} is there twice")
            stored[key, request_id] = text
    for key, numbers in seqs.items():
        if numbers != list(range(1, len(numbers) + 1)):
            found.append(f"I2: events of {key} are not 1..n")
    said = {(line["session"], line["request"]): line["text"] for line in record if line["kind"] == "invoke"}
    for line in record:
        place = (line.get("session", ""), line.get("request", ""))
        if line["kind"] in ("accepted", "ok") and stored.get(place) != said.get(place):
            found.append(f"I1: {place[1]} was accepted and is not there as it was said")
        if line["kind"] == "fail" and place in stored:
            found.append(f"I10: {place[1]} was refused and is there")
    found += [f"I1: {request} was never said" for place, request in ((p, p[1]) for p in stored) if place not in said]
    return found


def check_effects(tables: Tables) -> list[str]:
    """I2, I3, I6, I7: effects are 1..n, none is there twice or stuck, and checkpoints go with their turns."""
    found: list[str] = []
    seqs: defaultdict[str, list[int]] = defaultdict(list)
    keys: Counter[str] = Counter()
    named: set[str] = set()
    for key, seq, _, dedupe_key, status, checkpoint_id in tables["effects"]:
        seqs[key].append(seq)
        keys[dedupe_key] += 1
        if status == "executing":
            found.append(f"I6: effect {seq} of {key} is stuck in executing")
        if checkpoint_id is not None:
            named.add(checkpoint_id)
    for key, numbers in seqs.items():
        if numbers != list(range(1, len(numbers) + 1)):
            found.append(f"I2: effects of {key} are not 1..n")
    found += [f"I3: dedupe key {name} is there {count} times" for name, count in keys.items() if count > 1]
    kept = {checkpoint_id for _, checkpoint_id, _ in tables["checkpoints"]}
    found += [f"I7: checkpoint {name} without its turn" for name in kept - named]
    found += [f"I7: turn without its checkpoint {name}" for name in named - kept]
    for key, last, processed, last_effect, _ in tables["sessions"]:
        if processed != last:
            found.append(f"I10: {key} has {last - processed} events unprocessed")
        if last_effect != len(seqs[key]):
            found.append(f"I2: {key} counts {last_effect} effects and has {len(seqs[key])}")
    return found


def check_writers(tables: Tables) -> list[str]:
    """I8: all was written by the owner of its time, and epochs only went up, each of them one node's."""
    found: list[str] = []
    highest: dict[str, int] = {}
    owners: dict[tuple[str, int], str] = {}
    witnessed: Counter[tuple[str, str, int]] = Counter()
    for key, kind, seq, connection, written_epoch, owner, epoch in tables["witnessed"]:
        witnessed[kind, key, seq] += 1
        what = f"{kind} {seq} of {key}"
        if connection != f"{OWNER_PREFIX}{owner}":
            found.append(f"I8: {what} was written by {connection!r} while {owner} owned it")
        if written_epoch != epoch:
            found.append(f"I8: {what} was written under epoch {written_epoch}, when {epoch} had been granted")
        if epoch < highest.get(key, epoch):
            found.append(f"I8: {what} was written in epoch {epoch}, after {highest[key]}")
        if owners.setdefault((key, epoch), connection) != connection:
            found.append(f"I8: epoch {epoch} of {key} was granted to {owners[key, epoch]!r} and {connection!r}")
        highest[key] = max(epoch, highest.get(key, epoch))
    stored = [(kind, key, seq) for kind in ("events", "effects") for key, seq, *_ in tables[kind]]
    found += [
        f"I8: {kind} {seq} of {key} came about unseen" for kind, key, seq in stored if not witnessed[kind, key, seq]
    ]
    return found


def check_turns(tables: Tables) -> list[str]:
    """I9, I10: each message has one terminal effect, and one attempt that ended with it."""
    ends: Counter[tuple[str, int]] = Counter()
    for key, _, payload, *_ in tables["effects"]:
        if payload["type"] in TERMINAL:
            ends[key, payload["eventSeq"]] += 1
    found = [f"I10: event {seq} of {key} ended {count} times" for (key, seq), count in ends.items() if count != 1]
    asked = {(key, seq) for key, seq, kind, *_ in tables["events"] if kind == "user_message"}
    found += [f"I10: event {seq} of {key} has no end" for key, seq in sorted(asked - ends.keys())]
    done = Counter((key, seq) for key, seq, _, status in tables["turns"] if status == "completed")
    found += [
        f"I9: event {seq} of {key} was completed {count} times" for (key, seq), count in done.items() if count > 1
    ]
    return found


def check_frames(record: Sequence[Line], tables: Tables) -> list[str]:
    """I4: frames go up on each connection, none is left out on any device; a number has one content, for ever."""
    found: list[str] = []
    digests: dict[tuple[str, int], str] = {}
    cursors: dict[tuple[int, str], int] = {}
    seen: dict[tuple[str, str], int] = {}  # by device, whatever the connection
    devices: defaultdict[str, set[str]] = defaultdict(set)
    for line in record:
        if line["kind"] in ("frame", "invoke"):
            devices[line["session"]].add(line["device"])
    types = {(key, seq): payload["type"] for key, seq, payload, *_ in tables["effects"]}
    for line in record:
        if line["kind"] != "frame":
            continue
        session, seq, place = line["session"], line["seq"], (line["connection"], line["session"])
        if digests.setdefault((session, seq), line["digest"]) != line["digest"]:
            found.append(f"I4: {seq} of {session} changed")
        if types.get((session, seq)) != line["type"]:
            found.append(f"I4: {seq} of {session} was shown as {line['type']} and is {types.get((session, seq))}")
        before = cursors.get(place)
        if before is not None and seq <= before:
            found.append(f"I4: {seq} of {session} came after {before} on one connection")
        if before is not None and line["from"] != before + 1:
            found.append(f"I4: {line['from']}..{seq} of {session} came after {before}")
        device = (line["device"], session)
        last = seen.get(device)
        # One of several leaves a thread when it has no request there, and comes back to where the server says.
        is_alone = len(devices[session]) == 1
        if is_alone and before is None and last is not None and line["from"] > last + 1:
            found.append(f"I4: {last + 1}..{line['from'] - 1} of {session} never came to a device")
        seen[device] = max(last or 0, seq)
        # A device is not shown again what was said on it: the next frame stands for its `input`.
        passed = [n for n in range(line["from"], seq) if types.get((session, n), "input") != "input"]
        found += [f"I4: {n} of {session} was passed over and is there" for n in passed]
        cursors[place] = seq
    return found


def check_users(record: Sequence[Line]) -> list[str]:
    """I5: what a user's connections got are answers to what that user said, though others have threads of that name."""
    sessions = {line["request"]: line["session"] for line in record if line["kind"] == "invoke"}
    return [
        f"I5: {line['kind']} for {line['request']} of {sessions.get(line['request'])} came to {line['session']}"
        for line in record
        if line["kind"] in ("frame", "accepted")
        and line["request"]
        and sessions.get(line["request"]) != line["session"]
    ]


def check_requests(record: Sequence[Line], tables: Tables) -> list[str]:
    """I10: each request that was said ended once, with what the table has; its tokens joined are its message."""
    found: list[str] = []
    requests = {(key, seq): name for key, seq, kind, name, _ in tables["events"] if kind == "user_message"}
    stored = {
        requests.get((key, payload["eventSeq"])): payload
        for key, _, payload, *_ in tables["effects"]
        if payload["type"] in TERMINAL
    }
    ended: Counter[str] = Counter()
    for line in record:
        if line["kind"] == "fail":
            ended[line["request"]] += 1
        if line["kind"] != "ok":
            continue
        ended[line["request"]] += 1
        payload = stored.get(line["request"], {})
        if (payload.get("type"), payload.get("message", "")) != (line["end"], line["text"]):
            found.append(f"I10: {line['request']} ended otherwise than it is stored")
        if line["end"] == "message" and line["joined"] not in ("", line["text"]):
            found.append(f"I4: the tokens of {line['request']} are not its message")
    said = [line["request"] for line in record if line["kind"] == "invoke"]
    found += [f"I10: {name} ended {ended[name]} times" for name in said if ended[name] != 1]
    return found
