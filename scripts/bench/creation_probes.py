"""How fast an actor system creates actors and lets them go, and what it keeps of them."""

import gc
from collections.abc import Generator
from contextlib import closing
from typing import Final

from scripts.bench.benchmark import Sample
from scripts.bench.loop_system import LoopSystem
from scripts.bench.resident_memory import measure_resident_bytes
from scripts.bench.systems import SystemName, open_system
from scripts.bench.work import CreateChildren, DismissChildren, ReplaceChildren

CREATED_PER_S = "created_per_s"
REPLACED_PER_S = "replaced_per_s"
BYTES_PER_ACTOR = "bytes_per_actor"
MEGABYTES_KEPT = "megabytes_kept"
OBJECTS_KEPT = "objects_kept"
REGISTERED_KEPT = "registered_kept"

WARM_UP_ACTORS: Final = 100
"""Created and gone before memory is looked at: what the first ones load or grow is not theirs."""


def probe_creation(system: SystemName, actors: int) -> Generator[Sample, None, None]:
    """Have one actor create children; time ends when the last one has answered a call.

    Yields:
        `created_per_s` of a round, whose children are gone before the next.
    """
    with closing(open_system(system)) as opened:
        parent = opened.create_parent()
        while True:
            took_s = opened.run(parent, CreateChildren(count=actors))
            yield {CREATED_PER_S: actors / took_s}
            opened.run(parent, DismissChildren())


def probe_replacement(system: SystemName, actors: int, at_once: int) -> Generator[Sample, None, None]:
    """Have one actor create children and make them exit, `at_once` at a time, until each is known to have.

    Yields:
        `replaced_per_s` of a round: actors that were created and exited.
    """
    with closing(open_system(system)) as opened:
        parent = opened.create_parent()
        while True:
            took_s = opened.run(parent, ReplaceChildren(count=actors, at_once=at_once))
            yield {REPLACED_PER_S: actors / took_s}


def probe_actor_memory(system: SystemName, actors: int) -> Generator[Sample, None, None]:
    """Have one actor create children, and see by how much the process grew. For systems within one process.

    Yields:
        `bytes_per_actor`, once: memory that a process had is no measure for what it needs.
    """
    with closing(open_system(system)) as opened:
        parent = opened.create_parent()
        opened.run(parent, ReplaceChildren(count=WARM_UP_ACTORS, at_once=WARM_UP_ACTORS))
        before_bytes = measure_resident_bytes()
        opened.run(parent, CreateChildren(count=actors))
        yield {BYTES_PER_ACTOR: (measure_resident_bytes() - before_bytes) / actors}


def probe_exit_memory(actors: int, at_once: int) -> Generator[Sample, None, None]:
    """Create very many actors of ours that exit, and see what is left of them.

    Yields:
        Once, by how much these grew: `megabytes_kept`, the resident set; `objects_kept`, what the garbage collector
        knows; `registered_kept`, entries of the system's registry.
    """
    with closing(LoopSystem()) as opened:
        parent = opened.create_parent()
        opened.run(parent, ReplaceChildren(count=10 * at_once, at_once=at_once))
        before_bytes = measure_resident_bytes()
        before_objects, before_registered = len(gc.get_objects()), opened.count_registered()
        opened.run(parent, ReplaceChildren(count=actors, at_once=at_once))
        after_bytes = measure_resident_bytes()
        yield {
            MEGABYTES_KEPT: (after_bytes - before_bytes) / 1024**2,
            OBJECTS_KEPT: len(gc.get_objects()) - before_objects,
            REGISTERED_KEPT: opened.count_registered() - before_registered,
        }
