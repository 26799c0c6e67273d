"""What Callboard and its peers are asked to do, without a database."""

import inspect
import pickle
from types import SimpleNamespace
from typing import Any

import pytest

from scripts.bench.peers_catalogue import DBOS_WRITE, list_peers_purposes, make_peers_catalogue
from scripts.bench.peers_command import is_installed
from scripts.bench.peers_dbos_probe import StreamIncomplete, stream_all
from scripts.bench.peers_server import make_environment
from scripts.bench.target import at_least

CATALOGUE = make_peers_catalogue({purpose: f"postgresql://h/{purpose}" for purpose in list_peers_purposes()})


class FakeReader:
    """Reads so many tokens of each stream."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
        self.read_ids: list[str] = []

    def read(self, workflow_id: str) -> None:
        self.read_ids.append(workflow_id)

    def count_tokens(self) -> int:
        return len(self.read_ids) * self.tokens


def start_turn(tokens: int) -> Any:
    """Return the handle of a workflow that has ended."""
    return SimpleNamespace(workflow_id=f"w{tokens}", get_result=lambda: None)


def test_each_turn_of_each_session_is_read() -> None:
    reader = FakeReader(5)

    assert stream_all(start_turn, reader, sessions=3, at_once=2, tokens=5, turns=2) > 0

    assert reader.read_ids == ["w5"] * 6


def test_nobody_need_read_what_is_only_written() -> None:
    turns: list[int] = []

    def start(tokens: int) -> Any:
        turns.append(tokens)
        return start_turn(tokens)

    assert stream_all(start, None, sessions=2, at_once=1, tokens=5, turns=2) > 0
    assert turns == [5] * 4


def test_stream_that_lacks_a_token_ends_the_measurement() -> None:
    with pytest.raises(StreamIncomplete, match="4 tokens were read of 5"):
        stream_all(start_turn, FakeReader(4), sessions=1, at_once=1, tokens=5, turns=1)


def test_server_is_given_its_database_and_no_other_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COALESCE_TOKENS", "0")
    monkeypatch.setenv("DATABASE_URL", "postgresql://elsewhere/d")
    monkeypatch.setenv("CALLBOARD_DATA_DIR", "/elsewhere")

    environment = make_environment("postgresql://h/d", "/made/for/it")

    assert environment["DATABASE_URL"] == "postgresql://h/d"
    assert environment["CALLBOARD_DATA_DIR"] == "/made/for/it", "no real server's, whose operators would see it"
    assert "COALESCE_TOKENS" not in environment


def test_targets_are_those_of_the_design() -> None:
    targets = {
        (benchmark.name, row.subject): row.target
        for benchmark in CATALOGUE
        for row in benchmark.rows
        if row.target is not None
    }

    # Whatever way a peer is used: the target holds beside the best of them.
    assert targets == {
        ("stream-100", "Callboard / DBOS"): at_least(100),
        ("stream-100", "Callboard / DBOS, 4 at a time"): at_least(100),
        ("turns", "Callboard / LangGraph"): at_least(3),
        ("turns", "Callboard / LangGraph, 20 savers"): at_least(3),
        ("turns", "Callboard / LangGraph, 20 savers, durability exit"): at_least(3),
    }


def test_everyone_streams_answers_of_the_same_length() -> None:
    for benchmark in CATALOGUE:
        sizes = [variant.choose_arguments(quick=False) for variant in benchmark.variants]
        assert len({(size["sessions"], size["tokens"]) for size in sizes}) == 1


def test_nobody_is_compared_with_a_stream_that_nobody_reads() -> None:
    assert all(row.over != DBOS_WRITE for benchmark in CATALOGUE for row in benchmark.rows)


def test_each_variant_has_a_database_of_its_own() -> None:
    for benchmark in CATALOGUE:
        urls = [variant.full["database_url"] for variant in benchmark.variants]
        assert len(set(urls)) == len(urls)


@pytest.mark.parametrize("quick", [False, True])
def test_probes_can_be_sent_to_another_process_with_their_arguments(quick: bool) -> None:
    for benchmark in CATALOGUE:
        for variant in benchmark.variants:
            arguments = variant.choose_arguments(quick=quick)
            assert pickle.loads(pickle.dumps((variant.probe, arguments))) == (variant.probe, arguments)
            inspect.signature(variant.probe).bind(**arguments)


def test_rows_are_about_variants_that_exist() -> None:
    for benchmark in CATALOGUE:
        names = {variant.name for variant in benchmark.variants}
        assert {row.variant for row in benchmark.rows} | {row.over for row in benchmark.rows} <= {*names, None}


def test_module_that_is_missing_is_told_from_one_that_is_there() -> None:
    assert is_installed("importlib.util")
    assert not is_installed("importlib.no_such_module")
    assert not is_installed("no_such_package.module")
