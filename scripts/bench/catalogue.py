"""The benchmarks of the actors: what is done, by whom, how much of it, and what ought to come of it.

Sizes are such that a round of ours takes a second or so, and one of the others not much longer.
"""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, Final, TypeVar

from scripts.bench.activation_probe import ACTIVATED_PER_S, probe_activation
from scripts.bench.benchmark import Benchmark, Probe, Row, Variant
from scripts.bench.creation_probes import (
    BYTES_PER_ACTOR,
    CREATED_PER_S,
    MEGABYTES_KEPT,
    OBJECTS_KEPT,
    REGISTERED_KEPT,
    REPLACED_PER_S,
    probe_actor_memory,
    probe_creation,
    probe_exit_memory,
    probe_replacement,
)
from scripts.bench.flood_probe import MAX_MS, P50_MS, P99_MS, Flood, probe_timer
from scripts.bench.message_probes import MESSAGES_PER_S, probe_messages
from scripts.bench.session_probe import BYTES_PER_SESSION, TURNS_PER_S, probe_busy_session
from scripts.bench.systems import SystemName
from scripts.bench.target import Target, at_least, at_most

Sizes = TypeVar("Sizes")

LOOP: Final = SystemName.LOOP
SIMPLE: Final = SystemName.SIMPLE
TCP: Final = SystemName.TCP
PYKKA: Final = SystemName.PYKKA

MESSAGE_RATIOS: Final = {SIMPLE: at_least(4), TCP: at_least(400)}
"""How many messages of ours for each of theirs."""

TCP_RECEIVERS: Final = 20
"""Instead of a thousand, where each is a process of 4 MB and more."""


def make_catalogue(*, compare: bool, database_url: str | None) -> tuple[Benchmark, ...]:
    """Return all benchmarks, in the order in which they are run and shown.

    Args:
        compare: True to have other actor systems do the same work, too.
        database_url: The database for sessions that are activated; None for an embedded one.
    """
    return (
        _make_ping_pong(compare),
        _make_fan_out(compare),
        _make_wakeups(compare),
        _make_create(compare),
        _make_create_exit(compare),
        _make_exit_memory(),
        _make_actor_memory(compare),
        _make_idle_sessions(),
        _make_flood(),
        _make_activation(database_url),
    )


def _make_ping_pong(compare: bool) -> Benchmark:
    sizes = {LOOP: (200_000, 500), SIMPLE: (50_000, 200), TCP: (500, 5), PYKKA: (5_000, 50)}
    variants = [
        _make_variant(system, probe_messages, {"receivers": 1, "waves": full}, {"waves": quick})
        for system, (full, quick) in _choose_systems(sizes, compare)
    ]
    rows = _make_rate_rows(
        "two actors, in turn", MESSAGES_PER_S, "messages/s", variants, at_least(200_000), MESSAGE_RATIOS
    )
    return Benchmark(name="ping-pong", variants=tuple(variants), rows=rows)


def _make_fan_out(compare: bool) -> Benchmark:
    sizes = {LOOP: (1000, 300, 2), SIMPLE: (1000, 50, 1), TCP: (TCP_RECEIVERS, 20, 1), PYKKA: (1000, 10, 1)}
    variants = [
        _make_variant(
            system,
            probe_messages,
            {"receivers": receivers, "waves": full},
            {"receivers": min(receivers, 5 if system is TCP else 100), "waves": quick},
        )
        for system, (receivers, full, quick) in _choose_systems(sizes, compare)
    ]
    rows = _make_rate_rows(
        f"1 to 1,000 (TCP: to {TCP_RECEIVERS})" if compare else "1 to 1,000",
        MESSAGES_PER_S,
        "messages/s",
        variants,
        at_least(200_000),
        MESSAGE_RATIOS,
    )
    return Benchmark(name="fan-out", variants=tuple(variants), rows=rows)


def _make_wakeups(compare: bool) -> Benchmark:
    """The simple base looks at each armed wakeup for each message: ten thousand take a minute to arm."""
    sizes = {LOOP: (100_000, 200_000, 200_000), SIMPLE: (10_000, 50, 50_000)}
    variants = []
    rows = []
    for system, (armed, waves, waves_without) in _choose_systems(sizes, compare):
        none, many = f"{system}, none armed", f"{system}, {armed:,} armed"
        quick = {"waves": 50}
        variants += [
            _make_variant(system, probe_messages, {"receivers": 1, "waves": waves_without}, quick, name=none),
            _make_variant(
                system,
                probe_messages,
                {"receivers": 1, "waves": waves, "wakeups": armed},
                {**quick, "wakeups": armed // 100},
                name=many,
            ),
        ]
        row = partial(Row, name="two actors, beside armed wakeups", variant=many, figure=MESSAGES_PER_S)
        rows += [row(unit="messages/s"), row(unit="times", over=none)]
    return Benchmark(name="wakeups", variants=tuple(variants), rows=tuple(rows))


def _make_create(compare: bool) -> Benchmark:
    sizes = {LOOP: (100_000, 500), SIMPLE: (2000, 50), TCP: (20, 2), PYKKA: (1000, 20)}
    variants = [
        _make_variant(system, probe_creation, {"actors": full}, {"actors": quick})
        for system, (full, quick) in _choose_systems(sizes, compare)
    ]
    rows = _make_rate_rows("created", CREATED_PER_S, "actors/s", variants, at_least(20_000))
    return Benchmark(name="create", variants=tuple(variants), rows=rows)


def _make_create_exit(compare: bool) -> Benchmark:
    sizes = {LOOP: (50_000, 500, 100), SIMPLE: (5000, 100, 100), TCP: (20, 4, 4), PYKKA: (1000, 20, 10)}
    variants = [
        _make_variant(system, probe_replacement, {"actors": full, "at_once": at_once}, {"actors": quick})
        for system, (full, quick, at_once) in _choose_systems(sizes, compare)
    ]
    rows = _make_rate_rows("created and exited", REPLACED_PER_S, "actors/s", variants, at_least(10_000))
    return Benchmark(name="create-exit", variants=tuple(variants), rows=rows)


def _make_exit_memory() -> Benchmark:
    """Memory counts as being back where it was if it grew by less than a byte for each actor."""
    variant = Variant(
        name=LOOP,
        probe=probe_exit_memory,
        full={"actors": 1_000_000, "at_once": 1000},
        quick={"actors": 1000, "at_once": 100},
    )
    row = partial(Row, variant=LOOP)
    rows = (
        row(name="memory kept of 1,000,000 that exited", figure=MEGABYTES_KEPT, unit="MB", target=at_most(1)),
        row(name="registry entries kept of them", figure=REGISTERED_KEPT, unit="entries", target=at_most(0)),
        row(name="objects kept of them", figure=OBJECTS_KEPT, unit="objects"),
    )
    return Benchmark(name="exit-memory", variants=(variant,), rows=rows, max_rounds=1)


def _make_actor_memory(compare: bool) -> Benchmark:
    """Without multiprocTCPBase, as its actors' memory is not this process's."""
    sizes = {LOOP: (100_000, 1000), SIMPLE: (10_000, 500), PYKKA: (1000, 50)}
    variants = [
        _make_variant(system, probe_actor_memory, {"actors": full}, {"actors": quick})
        for system, (full, quick) in _choose_systems(sizes, compare)
    ]
    rows = tuple(
        Row(
            name="memory of a bare actor",
            variant=variant.name,
            figure=BYTES_PER_ACTOR,
            unit="bytes",
            target=at_most(1024) if variant.name == LOOP else None,
        )
        for variant in variants
    )
    return Benchmark(name="actor-memory", variants=tuple(variants), rows=rows, max_rounds=3)


def _make_idle_sessions() -> Benchmark:
    few, many = "beside 1 idle", "beside 100,000 idle"
    variants = tuple(
        Variant(
            name=name,
            probe=probe_busy_session,
            full={"idle_sessions": idle, "turns": 5000},
            quick={"idle_sessions": min(idle, 200), "turns": 50},
        )
        for name, idle in ((few, 1), (many, 100_000))
    )
    turns = partial(Row, name="messages of one busy session", figure=TURNS_PER_S)
    rows = (
        turns(variant=few, unit="messages/s"),
        turns(variant=many, unit="messages/s"),
        turns(variant=many, unit="times", over=few, target=at_least(0.9)),
        Row(
            name="memory of an idle session, its checkpoint that of echo",
            variant=many,
            figure=BYTES_PER_SESSION,
            unit="bytes",
            target=at_most(2048),
        ),
    )
    return Benchmark(name="idle-sessions", variants=variants, rows=rows)


def _make_flood() -> Benchmark:
    """At 10 ms and more for each timer, a round has a few hundred of them: what a 99th percentile needs."""
    variants = tuple(
        Variant(name=flood, probe=probe_timer, full={"flood": flood, "duration_s": 5.0}, quick={"duration_s": 0.2})
        for flood in Flood
    )
    rows = []
    for flood in Flood:
        row = partial(Row, variant=flood, unit="ms")
        rows += [
            row(name="a 10 ms timer fires, p50", figure=P50_MS),
            row(name="a 10 ms timer fires, p99", figure=P99_MS, target=at_most(20)),
            row(name="a 10 ms timer fires, at the latest", figure=MAX_MS, summarise=max),
        ]
    return Benchmark(name="flood", variants=variants, rows=tuple(rows))


def _make_activation(database_url: str | None) -> Benchmark:
    subject = "stored sessions"
    variant = Variant(
        name=subject,
        probe=probe_activation,
        full={"sessions": 1000, "database_url": database_url},
        quick={"sessions": 20},
    )
    row = Row(
        name="1,000 activated at once",
        variant=subject,
        figure=ACTIVATED_PER_S,
        unit="sessions/s",
        target=at_least(2000),
    )
    return Benchmark(name="activation", variants=(variant,), rows=(row,))


def _choose_systems(sizes: Mapping[SystemName, Sizes], compare: bool) -> list[tuple[SystemName, Sizes]]:
    """Return the systems with their sizes: all, or ours alone."""
    return [(system, size) for system, size in sizes.items() if compare or system is LOOP]


def _make_variant(
    system: SystemName, probe: Probe, full: Mapping[str, Any], quick: Mapping[str, Any], *, name: str | None = None
) -> Variant:
    """Return a variant that is named for its system, if not otherwise."""
    return Variant(name=name or system, probe=probe, full={"system": system, **full}, quick=quick)


def _make_rate_rows(
    name: str,
    figure: str,
    unit: str,
    variants: Iterable[Variant],
    target: Target,
    ratio_targets: Mapping[SystemName, Target] | None = None,
) -> tuple[Row, ...]:
    """Return a row for each variant's rate, and one for how many times ours is that of each other."""
    rate = partial(Row, name=name, figure=figure)
    rows = []
    for variant in variants:
        if variant.name == LOOP:
            rows.append(rate(variant=LOOP, unit=unit, target=target))
        else:
            goal = (ratio_targets or {}).get(SystemName(variant.name))
            rows.append(rate(variant=variant.name, unit=unit))
            rows.append(rate(variant=LOOP, over=variant.name, unit="times", target=goal))
    return tuple(rows)
