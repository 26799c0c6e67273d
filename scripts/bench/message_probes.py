"""How many messages per second an actor system carries."""

from collections.abc import Generator
from contextlib import closing

from scripts.bench.benchmark import Sample
from scripts.bench.systems import SystemName, open_system
from scripts.bench.work import ArmWakeups, MakeCalls, PrepareCalls

MESSAGES_PER_S = "messages_per_s"


def probe_messages(system: SystemName, receivers: int, waves: int, wakeups: int = 0) -> Generator[Sample, None, None]:
    """Have one actor call others, all of which answer, again and again.

    A call and its answer are two messages. Time runs from handing the system the order to its report that the last
    answer came; the actors exist, and have been called once.

    Args:
        system: Who carries them.
        receivers: How many actors are called at once; 1 for ping and pong.
        waves: How often, in a round.
        wakeups: How many are armed before, to fire long after.

    Yields:
        `messages_per_s` of a round.
    """
    with closing(open_system(system)) as opened:
        caller = opened.create_caller()
        opened.run(caller, PrepareCalls(receivers=receivers))
        if wakeups:
            opened.run(caller, ArmWakeups(count=wakeups))
        while True:
            took_s = opened.run(caller, MakeCalls(waves=waves))
            yield {MESSAGES_PER_S: 2 * receivers * waves / took_s}
