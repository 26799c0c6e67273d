"""What Callboard and its peers do alike, how much of it, and what ought to come of it.

Everyone has one process that does the work, and the same PostgreSQL. Rates are compared, so the slower do less of it.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, Final

from scripts.bench.benchmark import Benchmark, Row, Variant
from scripts.bench.peers_callboard_probe import TOKENS_PER_S, TURNS_PER_S, probe_callboard
from scripts.bench.peers_dbos_probe import probe_dbos
from scripts.bench.peers_langgraph_probe import probe_langgraph
from scripts.bench.target import Target, at_least

TOKENS_PER_ANSWER: Final = 100
"""What an answer of a model has, roughly."""

TOKENS_PER_SHORT_ANSWER: Final = 20

SESSIONS: Final = 100
QUICK_SESSIONS: Final = 4

MERGED: Final = "Callboard"
STRICT: Final = "Callboard, an effect for each token"

DBOS_ALL: Final = "DBOS"
DBOS_FEW: Final = "DBOS, 4 at a time"
DBOS_WRITE: Final = "DBOS, 4 at a time, unread"

LANGGRAPH: Final = "LangGraph"
LANGGRAPH_MANY: Final = "LangGraph, 20 savers"
LANGGRAPH_EXIT: Final = "LangGraph, 20 savers, durability exit"

MODULES: Final = ("dbos", "langgraph", "langgraph.checkpoint.postgres", "psycopg_pool", "picows")
"""What this takes besides Callboard."""

_PURPOSES: Final = {
    MERGED: "callboard",
    STRICT: "callboard_strict",
    DBOS_ALL: "dbos",
    DBOS_FEW: "dbos_few",
    DBOS_WRITE: "dbos_write",
    LANGGRAPH: "langgraph",
    LANGGRAPH_MANY: "langgraph_many",
    LANGGRAPH_EXIT: "langgraph_exit",
}


def list_peers_purposes() -> list[str]:
    """Return what databases are needed for: each variant has one."""
    return list(_PURPOSES.values())


def make_peers_catalogue(databases: Mapping[str, str]) -> tuple[Benchmark, ...]:
    """Return all benchmarks, in the order in which they are run and shown.

    Args:
        databases: Connection URIs by purpose.
    """
    urls = {variant: databases[purpose] for variant, purpose in _PURPOSES.items()}
    return (_make_one_stream(urls), _make_many_streams(urls), _make_turns(urls))


def _make_one_stream(urls: Mapping[str, str]) -> Benchmark:
    """One session alone: what a token's own COMMIT costs, and what merging saves of it."""
    variants = (
        *_make_callboards(urls, sessions=1, tokens=TOKENS_PER_ANSWER, turns=100),
        _make_dbos(urls, DBOS_ALL, sessions=1, at_once=1, turns=5, read=True),
    )
    return Benchmark(name="stream-1", variants=variants, rows=_make_token_rows("1 session", [DBOS_ALL], None))


def _make_many_streams(urls: Mapping[str, str]) -> Benchmark:
    """A hundred sessions. What nobody reads is no stream to anybody, but shows where DBOS spends its time."""
    make_dbos = partial(_make_dbos, urls, sessions=SESSIONS, turns=1)
    variants = (
        *_make_callboards(urls, sessions=SESSIONS, tokens=TOKENS_PER_ANSWER, turns=10),
        make_dbos(DBOS_ALL, at_once=SESSIONS, read=True),
        make_dbos(DBOS_FEW, at_once=4, read=True),
        make_dbos(DBOS_WRITE, at_once=4, read=False),
    )
    rows = _make_token_rows(f"{SESSIONS} sessions", [DBOS_ALL, DBOS_FEW, DBOS_WRITE], at_least(100))
    return Benchmark(name=f"stream-{SESSIONS}", variants=variants, rows=rows)


def _make_turns(urls: Mapping[str, str]) -> Benchmark:
    """Short answers of a hundred sessions. LangGraph stores checkpoints and no tokens; with "exit" one for a turn."""
    make_langgraph = partial(_make_langgraph, urls)
    variants = (
        *_make_callboards(urls, sessions=SESSIONS, tokens=TOKENS_PER_SHORT_ANSWER, turns=20),
        make_langgraph(LANGGRAPH, savers=1, durability="async"),
        make_langgraph(LANGGRAPH_MANY, savers=20, durability="async"),
        make_langgraph(LANGGRAPH_EXIT, savers=20, durability="exit"),
    )
    peers = [LANGGRAPH, LANGGRAPH_MANY, LANGGRAPH_EXIT]
    row = partial(Row, name=f"turns of {TOKENS_PER_SHORT_ANSWER} tokens, {SESSIONS} sessions", figure=TURNS_PER_S)
    rows = (
        *(row(variant=name, unit="turns/s") for name in (MERGED, STRICT, *peers)),
        *(row(variant=MERGED, over=peer, unit="times", target=at_least(3)) for peer in peers),
        *(row(variant=STRICT, over=peer, unit="times") for peer in peers),
    )
    return Benchmark(name="turns", variants=variants, rows=rows)


def _make_token_rows(where: str, peers: list[str], target: Target | None) -> tuple[Row, ...]:
    """Return a row for each rate, and those for how many times ours are that of each peer that is read."""
    row = partial(Row, name=f"answers of {TOKENS_PER_ANSWER} tokens, {where}", figure=TOKENS_PER_S)
    read = [peer for peer in peers if peer != DBOS_WRITE]
    return (
        *(row(variant=name, unit="tokens/s") for name in (MERGED, STRICT, *peers)),
        *(row(variant=MERGED, over=peer, unit="times", target=target) for peer in read),
        *(row(variant=STRICT, over=peer, unit="times") for peer in read),
    )


def _make_callboards(urls: Mapping[str, str], *, sessions: int, tokens: int, turns: int) -> tuple[Variant, ...]:
    return tuple(
        Variant(
            name=name,
            probe=probe_callboard,
            full={
                "database_url": urls[name],
                "merge": name == MERGED,
                "sessions": sessions,
                "tokens": tokens,
                "turns": turns if name == MERGED else max(1, turns // 4),
            },
            quick=_make_quick(sessions),
        )
        for name in (MERGED, STRICT)
    )


def _make_dbos(urls: Mapping[str, str], name: str, *, sessions: int, at_once: int, turns: int, read: bool) -> Variant:
    full = {
        "database_url": urls[name],
        "sessions": sessions,
        "at_once": at_once,
        "tokens": TOKENS_PER_ANSWER,
        "turns": turns,
        "read": read,
    }
    return Variant(name=name, probe=probe_dbos, full=full, quick=_make_quick(sessions))


def _make_langgraph(urls: Mapping[str, str], name: str, *, savers: int, durability: str) -> Variant:
    full = {
        "database_url": urls[name],
        "savers": savers,
        "durability": durability,
        "sessions": SESSIONS,
        "tokens": TOKENS_PER_SHORT_ANSWER,
        "turns": 5,
    }
    return Variant(name=name, probe=probe_langgraph, full=full, quick=_make_quick(SESSIONS))


def _make_quick(sessions: int) -> dict[str, Any]:
    """Return the sizes of a short run."""
    return {"sessions": min(sessions, QUICK_SESSIONS), "tokens": 10, "turns": 1}
