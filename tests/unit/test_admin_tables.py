"""Tables of `callboard admin`: whole at any width, and nothing of a figure or a key is lost."""

import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts.admin.tables import fold, lay_out, measure

COLUMNS = ("session", "state", ">to do", ">quiet")
ROWS = [["ada:metronome:trip-0", "running", "12", "4.9 min"], ["bob:eliza:t", "idle", "0", "25 ms"]]

texts = st.text(st.characters(exclude_categories=("Cs", "Cc", "Zs", "Zl", "Zp", "Mn", "Me", "Cf")), max_size=60)


def test_what_fits_is_one_line_a_row() -> None:
    assert list(lay_out(COLUMNS, ROWS, width=80)) == [
        "session                state     to do     quiet",
        "────────────────────────────────────────────────",
        "ada:metronome:trip-0   running      12   4.9 min",
        "bob:eliza:t            idle          0     25 ms",
    ]


def test_columns_on_the_left_are_broken_to_fit() -> None:
    assert list(lay_out(COLUMNS, ROWS[:1], width=45)) == [
        "session             state     to do     quiet",
        "─────────────────────────────────────────────",
        "ada:metronome:tri   running      12   4.9 min",
        "p-0",
    ]


def test_rows_are_blocks_where_there_is_no_room() -> None:
    assert list(lay_out(COLUMNS, ROWS, width=30)) == [
        "session   ada:metronome:trip-0",
        "state     running",
        "to do     12",
        "quiet     4.9 min",
        "",
        "session   bob:eliza:t",
        "state     idle",
        "to do     0",
        "quiet     25 ms",
    ]


KEYED = ("!session", "state", ">to do", "error")
KEYED_ROWS = [["ada:metronome:trip-0", "running", "12", "the model is not loaded"], ["bob:eliza:t", "idle", "0", "-"]]


def test_key_is_whole_beside_what_can_be_broken() -> None:
    assert list(lay_out(KEYED, KEYED_ROWS, width=57)) == [
        "session                state     to do   error",
        "─────────────────────────────────────────────────────────",
        "ada:metronome:trip-0   running      12   the model is not",
        "                                         loaded",
        "bob:eliza:t            idle          0   -",
    ]


def test_key_without_room_beside_the_rest_is_above_it() -> None:
    assert list(lay_out(KEYED, KEYED_ROWS, width=38)) == [
        "session",
        "   state     to do   error",
        "──────────────────────────────────────",
        "ada:metronome:trip-0",
        "   running      12   the model is not",
        "                     loaded",
        "bob:eliza:t",
        "   idle          0   -",
    ]


def test_key_without_room_beside_its_name_is_below_it() -> None:
    assert list(lay_out(KEYED, KEYED_ROWS[:1], width=24))[:3] == [
        "session",
        "ada:metronome:trip-0",
        "state     running",
    ]


@given(st.lists(st.lists(texts, min_size=4, max_size=4), min_size=1, max_size=5), st.integers(60, 120))
def test_what_is_to_be_copied_is_in_one_line_at_any_width(rows: list[list[str]], width: int) -> None:
    lines = list(lay_out(("!a", "b", ">c", "!d"), rows, width=width))
    assert max(map(measure, lines)) <= max(width, max(measure(row[2]) for row in rows))
    for row in rows:
        for key in (row[0], row[3]):
            assert measure(key) > width or any(key in line for line in lines)


def test_rule_is_no_longer_than_it_need_be() -> None:
    lines = list(lay_out(("a", "b"), [["x", "y" * 300]], width=100_000))
    assert list(map(len, lines)) == [5, 120, 304]


@given(st.lists(st.lists(texts, min_size=4, max_size=4), min_size=1, max_size=5), st.integers(30, 120))
def test_no_line_is_too_long_and_nothing_is_lost(rows: list[list[str]], width: int) -> None:
    lines = list(lay_out(("a", "b", "c", "d"), rows, width=width))
    assert max(map(measure, lines)) <= width
    assert sum(map(len, "".join("".join(row) for row in rows).split())) <= sum(len(line) for line in lines)


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("the model is not loaded", ["the model", "is not", "loaded"]),
        ("abcdefghijklm", ["abcdefghij", "klm"]),
        ("日本語日本語", ["日本語日本", "語"]),
        ("a\nb", ["a", "b"]),
        ("", [""]),
        ("0123456789 x", ["0123456789", "x"]),
    ],
)
def test_text_is_broken_between_words_if_it_can_be(text: str, lines: list[str]) -> None:
    assert fold(text, 10) == lines


def test_ten_thousand_rows_take_no_time_to_speak_of() -> None:
    rows = [[f"user{number}:metronome:thread-{number}", "passivated", "0", "12 s"] for number in range(10_000)]
    began_s = time.process_time()
    lines = list(lay_out(COLUMNS, rows, width=45))
    assert len(lines) > 20_000
    assert time.process_time() - began_s < 2
    assert all(line != after for line, after in pairwise(lines[2:]))
