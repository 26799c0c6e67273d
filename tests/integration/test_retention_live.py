"""The sweep under conversations that are in memory: actors, routes and connections go on as if nothing had happened."""

import asyncio

from storage.retention_records import SweepCounts
from tests.integration.node_stage import Client, Play, Stage, connect, eventually
from tests.integration.node_stage import play as play
from tests.integration.sweeps import DAY_S, HOUR_S, open_sweeps

PAST_S = 3 * DAY_S


async def sweep(
    dsn: str,
    *,
    compact_after_s: float | None = None,
    effect_ttl_s: float | None = None,
    retention_s: float | None = None,
) -> SweepCounts:
    """Run a pass as if three days had gone by."""
    with open_sweeps(
        dsn,
        later_s=PAST_S,
        compact_after_s=compact_after_s,
        effect_ttl_s=effect_ttl_s,
        retention_s=retention_s,
    ) as sweeps:
        return await asyncio.to_thread(sweeps.run_pass)


async def answer_nobody(stage: Stage, client: Client, text: str) -> int:
    """Have a message answered while no socket takes anything; returns the last effect."""
    client.open.clear()
    client.say(text, "unseen")
    await eventually(lambda: "unseen" in list_ended(stage))
    return stage.counters()[2]


def list_ended(stage: Stage) -> list[str]:
    rows = stage.query("SELECT payload->>'requestId' FROM effects WHERE payload->>'type' = 'message'")
    return [row[0] for row in rows]


async def wait_until_delivered(stage: Stage) -> None:
    await eventually(lambda: stage.counters()[2] == stage.counters()[3])


def test_connection_that_was_stuck_gets_what_expired_meanwhile(dsn: str, play: Play) -> None:
    async def scene(stage: Stage) -> None:
        node = stage.start(coalesce_tokens=False)
        stuck = await connect(node)
        last = await answer_nobody(stage, stuck, "one two three")
        assert await sweep(dsn, effect_ttl_s=DAY_S) == SweepCounts(expired=last - 1)  # the input was not held up
        assert stage.counters()[3] == last

        newcomer = await connect(node)
        assert await newcomer.ask("four", "r4") == "four "
        stuck.open.set()
        await eventually(lambda: stuck.messages == ["one two three ", "four "])
        assert stuck.kinds == ["token"] * 3 + ["message", "token", "message"]
        assert stuck.tokens == "one two three four "
        await wait_until_delivered(stage)
        assert stage.query("SELECT status, max(seq) FROM effects GROUP BY 1 ORDER BY 1") == [
            ("completed", last + 3),
            ("failed", last),
        ]

    play(scene)


def test_client_that_comes_after_the_expiry_begins_behind_it(dsn: str, play: Play) -> None:
    async def scene(stage: Stage) -> None:
        node = stage.start()
        client = await connect(node)
        assert await client.ask("one", "r1") == "one "
        await answer_nobody(stage, client, "two three")
        client.leave()
        await eventually(lambda: "executing" not in stage.statuses())
        assert (await sweep(dsn, effect_ttl_s=DAY_S)).expired > 0

        late = await connect(node)  # the route of before is still in memory
        assert await late.ask("four", "r4") == "four "
        assert late.messages == ["four "]
        await wait_until_delivered(stage)

        elsewhere = await connect(stage.start())
        stage.retire(node)
        assert await elsewhere.ask("five", "r5") == "five "
        assert elsewhere.messages == ["five "]

    play(scene)


def test_compaction_disturbs_neither_actor_nor_connection(dsn: str, play: Play) -> None:
    async def scene(stage: Stage) -> None:
        node = stage.start(coalesce_tokens=False)
        client = await connect(node)
        assert await client.ask("one two three", "r1") == "one two three "
        await wait_until_delivered(stage)
        assert await sweep(dsn, compact_after_s=HOUR_S) == SweepCounts(compacted=3)
        assert await client.ask("four", "r4") == "four "
        assert client.tokens == "one two three four "
        assert [(seq, kind) for seq, _, _, kind in stage.effects()] == [
            (1, "input"),
            (5, "message"),
            (6, "input"),
            (7, "token"),
            (8, "message"),
        ]

    play(scene)


def test_purge_disturbs_neither_actor_nor_connection(dsn: str, play: Play) -> None:
    async def scene(stage: Stage) -> None:
        node = stage.start(coalesce_tokens=False)
        client = await connect(node)
        for name in ("r1", "r2"):
            await client.ask("one two", name)
        await wait_until_delivered(stage)
        assert await sweep(dsn, retention_s=2 * DAY_S) == SweepCounts(purged=2, purged_effects=8)
        assert stage.effects() == []
        assert await client.ask("three", "r3") == "three "
        assert stage.counters()[:3] == (3, 3, 11)
        assert stage.query("SELECT event_seq, state FROM checkpoints ORDER BY 1") == [
            (2, {"turns": 2}),
            (3, {"turns": 3}),
        ]

    play(scene)


def test_session_purged_while_away_goes_on_where_it_was(dsn: str, play: Play) -> None:
    async def scene(stage: Stage) -> None:
        first = stage.start()
        await (await connect(first)).ask("one", "r1")
        await wait_until_delivered(stage)
        await stage.crash(first)
        await sweep(dsn, retention_s=2 * DAY_S)

        client = await connect(stage.start())
        assert await client.ask("two", "r2") == "two "
        assert client.messages == ["two "]
        assert stage.query("SELECT state FROM checkpoints WHERE event_seq = 2") == [({"turns": 2},)]

    play(scene)


def test_node_compacts_by_itself(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        node = stage.start(compact_after_s=0.01, coalesce_tokens=False)
        client = await connect(node)
        await client.ask("one two", "r1")
        await eventually(lambda: [kind for *_, kind in stage.effects()] == ["input", "message"])
        await node.stop()
        names = "SELECT FROM pg_stat_activity WHERE application_name = %s"
        await eventually(lambda: not stage.query(names, f"callboard-sweeper {node.node_id}"))

    play(scene)
