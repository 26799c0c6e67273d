"""The checker of chaos runs: a sound run passes, and each thing that may be wrong is found."""

from collections.abc import Callable
from typing import Any

import pytest

from scripts.chaos.checker import judge

KEY = "local:metronome:t"
Tables = dict[str, list[tuple[Any, ...]]]
Record = list[dict[str, Any]]


def make_tables() -> Tables:
    """Two messages, the first answered in its second attempt."""
    payloads = [
        {"type": "input", "eventSeq": 1},
        {"type": "token", "eventSeq": 1, "value": "lost"},
        {"type": "restarted", "eventSeq": 1},
        {"type": "token", "eventSeq": 1, "value": "a"},
        {"type": "message", "eventSeq": 1, "message": "a"},
        {"type": "input", "eventSeq": 2},
        {"type": "cancelled", "eventSeq": 2},
    ]
    return {
        "events": [(KEY, 1, "user_message", "r1", "one"), (KEY, 2, "user_message", "r2", "two")],
        "effects": [
            (KEY, seq, payload, f"key{seq}", "completed", "cp" if seq == 5 else None)
            for seq, payload in enumerate(payloads, start=1)
        ],
        "sessions": [(KEY, 2, 2, 7, 3)],
        "turns": [(KEY, 1, 1, "running"), (KEY, 1, 2, "completed"), (KEY, 2, 1, "cancelled")],
        "checkpoints": [(KEY, "cp", 1)],
        "witnessed": [
            *((KEY, "events", seq, "callboard n1", 2, "n1", 2) for seq in (1, 2)),
            *((KEY, "effects", seq, "callboard n1", 2, "n1", 2) for seq in (1, 2)),
            *((KEY, "effects", seq, "callboard n2", 3, "n2", 3) for seq in range(3, 8)),
        ],
    }


def make_record(tables: Tables) -> Record:
    """A client that saw all of it, on two connections."""
    about = {"session": KEY}
    record: Record = [{"kind": "connected", "connection": 1}]
    record += [
        {"kind": "invoke", "device": "d", **about, "request": name, "text": text}
        for name, text in (("r1", "one"), ("r2", "two"))
    ]
    record += [{"kind": "accepted", **about, "request": name} for name in ("r1", "r2")]
    for _, seq, payload, *_ in tables["effects"]:
        record.append(
            {
                "kind": "frame",
                **about,
                "request": f"r{payload['eventSeq']}",
                "device": "d",
                "connection": 1 if seq <= 3 else 2,
                "seq": seq,
                "from": seq,
                "type": payload["type"],
                "digest": f"d{seq}",
            }
        )
    record.append({"kind": "lost", "connection": 1})
    record.append({"kind": "unknown", **about, "request": "r2"})
    record.append({"kind": "ok", **about, "request": "r1", "end": "message", "text": "a", "joined": "a"})
    record.append({"kind": "ok", **about, "request": "r2", "end": "cancelled", "text": "", "joined": ""})
    return record


def find_line(record: Record, **about: Any) -> dict[str, Any]:
    return next(line for line in record if all(line.get(name) == value for name, value in about.items()))


def test_sound_run_passes() -> None:
    tables = make_tables()
    verdict = judge(make_record(tables), tables, {"kill": 1})
    assert (verdict.violations, verdict.missing) == ([], [])
    assert verdict.counts["frame"] == 7


def acknowledge_before_commit(record: Record, tables: Tables) -> None:
    tables["events"].pop()
    tables["effects"] = tables["effects"][:5]
    tables["sessions"] = [(KEY, 1, 1, 5, 3)]


def commit_without_a_fence(record: Record, tables: Tables) -> None:
    tables["effects"].append((KEY, 8, {"type": "message", "eventSeq": 1, "message": "b"}, "key8", "completed", None))
    tables["sessions"] = [(KEY, 2, 2, 8, 3)]


def retry_blindly(record: Record, tables: Tables) -> None:
    tables["events"].append((KEY, 3, "user_message", "r2", "two"))


def swallow_an_effect(record: Record, tables: Tables) -> None:
    record.remove(find_line(record, kind="frame", seq=6))


def cover_a_swallowed_effect(record: Record, tables: Tables) -> None:
    record.remove(find_line(record, kind="frame", seq=4))
    find_line(record, kind="frame", seq=5)["from"] = 4


def pass_over_what_was_said(record: Record, tables: Tables) -> None:
    record.remove(find_line(record, kind="frame", seq=6))
    find_line(record, kind="frame", seq=7)["from"] = 6


def deliver_twice(record: Record, tables: Tables) -> None:
    line = find_line(record, kind="frame", seq=2)
    record.insert(record.index(line), dict(line))


def change_an_effect(record: Record, tables: Tables) -> None:
    line = find_line(record, kind="frame", seq=3)
    record.append({**line, "connection": 3, "digest": "other"})


def leave_a_gap_among_events(record: Record, tables: Tables) -> None:
    tables["events"][1] = (KEY, 3, "user_message", "r2", "two")


def leave_a_gap_among_effects(record: Record, tables: Tables) -> None:
    tables["effects"].pop(1)


def store_a_key_twice(record: Record, tables: Tables) -> None:
    tables["effects"][1] = (*tables["effects"][1][:3], "key1", *tables["effects"][1][4:])


def leave_an_effect_executing(record: Record, tables: Tables) -> None:
    tables["effects"][6] = (*tables["effects"][6][:4], "executing", None)


def lose_a_checkpoint(record: Record, tables: Tables) -> None:
    tables["checkpoints"].clear()


def keep_a_checkpoint_without_its_turn(record: Record, tables: Tables) -> None:
    tables["checkpoints"].append((KEY, "cp2", 2))


def complete_a_turn_twice(record: Record, tables: Tables) -> None:
    tables["turns"][0] = (KEY, 1, 1, "completed")


def leave_an_event_unprocessed(record: Record, tables: Tables) -> None:
    tables["sessions"] = [(KEY, 2, 1, 7, 3)]


def resume_too_far_ahead(record: Record, tables: Tables) -> None:
    record.remove(find_line(record, kind="frame", seq=4))


def end_a_request_twice(record: Record, tables: Tables) -> None:
    record.append(dict(find_line(record, kind="ok", request="r1")))


def forget_a_request(record: Record, tables: Tables) -> None:
    record.remove(find_line(record, kind="ok", request="r2"))


def refuse_what_is_stored(record: Record, tables: Tables) -> None:
    record.remove(find_line(record, kind="ok", request="r2"))
    record.append({"kind": "fail", "session": KEY, "request": "r2", "code": "busy"})


def show_other_tokens(record: Record, tables: Tables) -> None:
    find_line(record, kind="ok", request="r1")["joined"] = "losta"


def store_what_nobody_said(record: Record, tables: Tables) -> None:
    record.remove(find_line(record, kind="invoke", request="r2"))


def show_it_to_another_user(record: Record, tables: Tables) -> None:
    find_line(record, kind="frame", seq=4)["session"] = "eve:metronome:t"


def accept_for_another_user(record: Record, tables: Tables) -> None:
    find_line(record, kind="accepted")["session"] = "eve:metronome:t"


def write_as_a_former_owner(record: Record, tables: Tables) -> None:
    tables["witnessed"][-1] = (KEY, "effects", 7, "callboard n1", 3, "n2", 3)


def write_under_an_older_epoch(record: Record, tables: Tables) -> None:
    tables["witnessed"][-1] = (KEY, "effects", 7, "callboard n1", 2, "n1", 2)


def write_as_a_former_actor_of_the_same_node(record: Record, tables: Tables) -> None:
    tables["witnessed"][-1] = (KEY, "effects", 7, "callboard n2", 3, "n2", 4)


def grant_an_epoch_twice(record: Record, tables: Tables) -> None:
    tables["witnessed"][-1] = (KEY, "effects", 7, "callboard n3", 3, "n3", 3)


def write_unseen(record: Record, tables: Tables) -> None:
    tables["witnessed"].pop()


@pytest.mark.parametrize(
    ("spoil", "invariant"),
    [
        (acknowledge_before_commit, "I1"),
        (commit_without_a_fence, "I10"),
        (retry_blindly, "I1"),
        (swallow_an_effect, "I4"),
        (cover_a_swallowed_effect, "I4"),
        (deliver_twice, "I4"),
        (change_an_effect, "I4"),
        (leave_a_gap_among_events, "I2"),
        (leave_a_gap_among_effects, "I2"),
        (store_a_key_twice, "I3"),
        (leave_an_effect_executing, "I6"),
        (lose_a_checkpoint, "I7"),
        (keep_a_checkpoint_without_its_turn, "I7"),
        (complete_a_turn_twice, "I9"),
        (leave_an_event_unprocessed, "I10"),
        (resume_too_far_ahead, "I4"),
        (end_a_request_twice, "I10"),
        (forget_a_request, "I10"),
        (refuse_what_is_stored, "I10"),
        (show_other_tokens, "I4"),
        (store_what_nobody_said, "I1"),
        (show_it_to_another_user, "I5"),
        (accept_for_another_user, "I5"),
        (write_as_a_former_owner, "I8"),
        (write_under_an_older_epoch, "I8"),
        (write_as_a_former_actor_of_the_same_node, "I8"),
        (grant_an_epoch_twice, "I8"),
        (write_unseen, "I8"),
    ],
)
def test_what_is_wrong_is_found(spoil: Callable[[Record, Tables], None], invariant: str) -> None:
    tables = make_tables()
    record = make_record(tables)
    spoil(record, tables)
    violations = judge(record, tables, {"kill": 1}).violations
    assert any(violation.startswith(f"{invariant}:") for violation in violations), violations


def test_device_is_not_shown_what_was_said_on_it() -> None:
    tables = make_tables()
    record = make_record(tables)
    pass_over_what_was_said(record, tables)
    assert judge(record, tables, {"kill": 1}).violations == []


@pytest.mark.parametrize(
    ("kind", "faults", "missing"),
    [
        ("unknown", {"kill": 1}, ["unknown outcomes"]),
        ("lost", {"kill": 1}, ["connections lost"]),
        ("ok", {"kill": 1}, ["answers"]),
        ("", {}, ["faults"]),
        ("hands", {"kill": 1}, ["sessions that changed hands"]),
    ],
)
def test_run_in_which_nothing_happened_proves_nothing(kind: str, faults: dict[str, int], missing: list[str]) -> None:
    tables = make_tables()
    record = [line for line in make_record(tables) if line["kind"] != kind]
    if kind == "hands":
        tables["witnessed"] = [(*row[:3], "callboard n1", 2, "n1", 2) for row in tables["witnessed"]]
    assert judge(record, tables, faults).missing == missing
