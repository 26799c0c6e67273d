import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from server.garbage import YOUNG_OBJECTS, collect_garbage_seldom


@pytest.fixture(autouse=True)
def thresholds() -> Iterator[None]:
    """Give the collector back what it had."""
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)
    gc.unfreeze()


@contextmanager
def watch_collections() -> Iterator[list[tuple[int, int]]]:
    """Note each collection: its generation, and how many objects it visits."""
    seen: list[tuple[int, int]] = []

    def note(phase: str, about: dict[str, Any]) -> None:
        if phase == "start":
            generation = about["generation"]
            seen.append((generation, sum(len(gc.get_objects(younger)) for younger in range(generation + 1))))

    gc.callbacks.append(note)
    try:
        yield seen
    finally:
        gc.callbacks.remove(note)


def test_no_collection_visits_many_objects_as_sessions_are_added() -> None:
    collect_garbage_seldom()
    with watch_collections() as seen:
        kept = [[number] for number in range(12 * YOUNG_OBJECTS)]
    assert kept
    assert {generation for generation, _ in seen} == {0, 1}
    assert max(visited for _, visited in seen) < 4.1 * YOUNG_OBJECTS


def test_what_is_loaded_at_the_start_is_never_visited() -> None:
    loaded = [[number] for number in range(1000)]
    collect_garbage_seldom()
    assert not {id(kept) for kept in loaded} & {id(visited) for visited in gc.get_objects()}
