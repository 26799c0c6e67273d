"""What waits for the storage writer: order, batches, delivery reports, bytes."""

import threading
from collections.abc import Callable
from uuid import uuid4

from storage.records import (
    EffectRecord,
    EffectsDelivery,
    EffectStatus,
    EffectType,
    SessionClaim,
    SessionWrite,
)
from storage.write_queue import MAX_BATCH_BYTES, MAX_BATCH_ROWS, Batch, Entry, WriteQueue

COMPLETED, EXECUTING = EffectStatus.COMPLETED, EffectStatus.EXECUTING


def make_write(key: str, *, effects: int = 1, text: str = "word") -> SessionWrite:
    records = tuple(
        EffectRecord(
            seq=seq, type=EffectType.SEND_MESSAGE, payload={"type": "token", "value": text}, dedupe_key=uuid4().hex
        )
        for seq in range(1, effects + 1)
    )
    return SessionWrite(
        session_key=key, epoch=1, base_event_seq=0, base_effect_seq=0, processed_event_seq=0, effects=records
    )


def fill(*requests: SessionWrite | SessionClaim) -> WriteQueue:
    queue = WriteQueue()
    for number, request in enumerate(requests):
        queue.put(Entry(request, number))
    return queue


def tickets(batch: Batch) -> list[object]:
    return [entry.reply_to for entry in batch.entries]


def report(key: str, from_seq: int, to_seq: int, status: EffectStatus = COMPLETED) -> EffectsDelivery:
    return EffectsDelivery(session_key=key, from_seq=from_seq, to_seq=to_seq, status=status)


def test_all_that_waits_is_one_batch_in_its_order() -> None:
    queue = fill(*(make_write(key) for key in "cab"))
    assert tickets(queue.take(0)) == [0, 1, 2]
    assert not queue.take(0)


def test_sessions_second_request_waits_for_the_next_batch() -> None:
    queue = fill(make_write("a"), SessionClaim(session_key="b"), make_write("a"), make_write("c"))
    assert tickets(queue.take(0)) == [0, 1]
    assert tickets(queue.take(0)) == [2, 3]


def test_batch_takes_no_more_past_its_bytes() -> None:
    third = "x" * (MAX_BATCH_BYTES // 3)
    queue = fill(*(make_write(key, text=third) for key in "abcd"))
    assert tickets(queue.take(0)) == [0, 1]
    assert tickets(queue.take(0)) == [2, 3]


def test_write_larger_than_a_batch_goes_alone() -> None:
    queue = fill(make_write("a"), make_write("b", text="x" * (2 * MAX_BATCH_BYTES)), make_write("c"))
    assert [tickets(queue.take(0)) for _ in range(3)] == [[0], [1], [2]]


def test_batch_takes_no_more_past_its_rows() -> None:
    queue = fill(make_write("a", effects=MAX_BATCH_ROWS), make_write("b"), make_write("c"))
    assert tickets(queue.take(0)) == [0]
    assert tickets(queue.take(0)) == [1, 2]


def test_delivery_reports_ride_with_the_next_batch() -> None:
    queue = fill()
    queue.put_report(report("z", 1, 2))
    queue.put(Entry(make_write("a"), "ticket"))
    batch = queue.take(0)
    assert (tickets(batch), batch.deliveries) == (["ticket"], (report("z", 1, 2),))


def test_delivery_reports_alone_make_a_batch_after_a_while() -> None:
    queue = fill()
    queue.put_report(report("z", 1, 2))
    assert queue.take(10).deliveries == (report("z", 1, 2),)


def test_reports_that_continue_each_other_are_joined() -> None:
    queue = fill()
    for each in (report("z", 1, 2), report("y", 1, 1), report("z", 3, 3), report("z", 4, 9)):
        queue.put_report(each)
    batch = queue.take(0)
    assert batch.deliveries == (report("z", 1, 9), report("y", 1, 1))
    assert batch.request_count == 4


def test_reports_of_another_status_or_beyond_a_gap_stay_apart() -> None:
    queue = fill()
    each = (report("z", 1, 2, EXECUTING), report("z", 1, 2), report("z", 4, 5), report("z", 6, 6, EXECUTING))
    for one in each:
        queue.put_report(one)
    assert queue.take(0).deliveries == each


def test_requests_count_as_settled_with_their_batch() -> None:
    queue = fill(make_write("a"), make_write("b"))
    queue.put_report(report("a", 1, 1))
    batch = queue.take(0)
    assert (queue.submitted_count, queue.settled_count) == (3, 0)
    queue.settle(batch)
    assert queue.settled_count == 3


def test_bytes_are_counted_until_the_batch_is_settled() -> None:
    queue = fill(make_write("a", text="x" * 100_000))
    assert 100_000 <= queue.byte_count <= 102_000
    batch = queue.take(0)
    assert queue.byte_count >= 100_000
    queue.settle(batch)
    assert queue.byte_count == 0


def in_thread(function: Callable[[], Batch]) -> Callable[[], Batch]:
    taken: list[Batch] = []
    thread = threading.Thread(target=lambda: taken.append(function()))
    thread.start()

    def join() -> Batch:
        thread.join(10)
        return taken[0]

    return join


def test_waiting_writer_is_woken_by_a_request() -> None:
    queue = fill()
    join = in_thread(lambda: queue.take(100))
    queue.put(Entry(make_write("a"), "ticket"))
    assert tickets(join()) == ["ticket"]


def test_waiting_writer_is_woken_by_the_end() -> None:
    queue = fill()
    join = in_thread(lambda: queue.take(100))
    queue.close()
    assert not join()


def test_closed_queue_gives_what_is_left_at_once() -> None:
    queue = fill(make_write("a"), make_write("a"))
    queue.put_report(report("a", 1, 1))
    queue.close()
    first, second = queue.take(100), queue.take(100)
    assert (tickets(first), tickets(second)) == ([0], [1])
    assert first.deliveries == (report("a", 1, 1),)
    assert not queue.take(100)
