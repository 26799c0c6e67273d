"""Threads as people read them: what was said, what is under way, and a user's threads."""

from datetime import UTC, datetime

import pytest
from playhouse.pool import PooledPostgresqlDatabase

from storage.records import TurnStart, TurnStatus
from storage.thread_records import ThreadPage, name_log
from storage.thread_store import ENDS, PAGE_BYTES, USERS_THREADS, ThreadStore
from tests.postgres import (
    Conversation,
    Query,
    RecordingWriter,
    cancelled,
    error,
    make_cancel,
    make_user_message,
    message,
    restarted,
    token,
)


@pytest.fixture
def store(database: PooledPostgresqlDatabase) -> ThreadStore:
    return ThreadStore(database)


def read(store: ThreadStore, conversation: Conversation, before: int | None = None, limit: int = 100) -> ThreadPage:
    page = store.read_thread(conversation.key, before=before, limit=limit)
    assert page is not None
    return page


def describe(page: ThreadPage) -> list[tuple[str, str, str]]:
    """Return what was asked, how it ended, and the text."""
    return [(each.question.text, each.answer.frame["type"], each.answer.text) for each in page.exchanges]


def test_exchange_has_its_question_and_whole_answer(store: ThreadStore, conversation: Conversation) -> None:
    event = conversation.say("How are you?", request_id="r1")
    conversation.answer(token(event.seq, "Fi"), token(event.seq, "ne"), message(event.seq, "Fine"), ends=event)

    page = read(store, conversation)

    assert describe(page) == [("How are you?", "message", "Fine")]
    (exchange,) = page.exchanges
    assert (exchange.question.request_id, exchange.question.event_seq, exchange.answer.seq) == ("r1", event.seq, 3)
    assert (page.head, page.open_requests, page.before) == (3, (), None)


def test_unknown_thread_has_no_page(store: ThreadStore) -> None:
    assert store.read_thread("nobody:echo:t1", limit=10) is None


def test_answer_without_message_shows_what_clients_saw(store: ThreadStore, conversation: Conversation) -> None:
    failed = conversation.say("first")
    conversation.answer(token(failed.seq, "a"), token(failed.seq, "b"), error(failed.seq), ends=failed)
    stopped = conversation.say("second")
    conversation.answer(token(stopped.seq, "c"), cancelled(stopped.seq), ends=stopped)
    silent = conversation.say("third")
    conversation.answer(error(silent.seq), ends=silent)

    assert describe(read(store, conversation)) == [
        ("first", "error", "ab"),
        ("second", "cancelled", "c"),
        ("third", "error", ""),
    ]


def test_text_of_a_lost_attempt_is_left_out(store: ThreadStore, conversation: Conversation) -> None:
    event = conversation.say("first")
    conversation.answer(token(event.seq, "lost"), restarted(event.seq), token(event.seq, "kept", attempt=2))
    conversation.answer(error(event.seq, attempt=2), ends=event, status=TurnStatus.FAILED)

    assert describe(read(store, conversation)) == [("first", "error", "kept")]


def test_running_request_has_its_partial_text(store: ThreadStore, conversation: Conversation) -> None:
    conversation.exchange("done")
    running = conversation.say("running")
    conversation.answer(token(running.seq, "so "), token(running.seq, "far"))
    waiting = make_user_message(conversation.last_event_seq + 1, "waiting", request_id="r3")
    conversation.commit(conversation.make_write(events=[waiting]))

    page = read(store, conversation)

    assert [(each.question.text, each.attempt, each.text) for each in page.open_requests] == [
        ("running", 1, "so far"),
        ("waiting", 0, ""),
    ]
    assert describe(page) == [("hello", "message", "done")]
    assert page.head == conversation.last_effect_seq


def test_partial_text_is_that_of_the_attempt_under_way(store: ThreadStore, conversation: Conversation) -> None:
    event = conversation.say("again")
    conversation.answer(token(event.seq, "lost"))
    second = TurnStart(event_seq=event.seq, attempt=2)
    conversation.commit(conversation.make_write(frames=[restarted(event.seq)], turn_starts=[second]))

    (begun,) = read(store, conversation).open_requests
    assert (begun.attempt, begun.text) == (2, "")

    conversation.answer(token(event.seq, "anew", attempt=2))
    (shown,) = read(store, conversation).open_requests
    assert (shown.attempt, shown.text) == (2, "anew")


def test_cancels_are_no_messages(store: ThreadStore, conversation: Conversation) -> None:
    conversation.say("stop me", request_id="r1")
    cancel = make_cancel(conversation.last_event_seq + 1, "r1")
    conversation.commit(conversation.make_write(events=[cancel]))

    assert [each.question.text for each in read(store, conversation).open_requests] == ["stop me"]


def test_pages_join_to_the_whole_thread(store: ThreadStore, conversation: Conversation) -> None:
    for number in range(7):
        event = conversation.say(f"q{number}")
        last = message(event.seq, f"a{number}") if number % 2 else cancelled(event.seq)
        conversation.answer(token(event.seq, f"a{number}"), last, ends=event)
    conversation.say("running")

    pages = [read(store, conversation, limit=3)]
    while pages[-1].before is not None:
        pages.append(read(store, conversation, before=pages[-1].before, limit=3))

    assert [len(page.exchanges) for page in pages] == [3, 3, 1]
    told = [each for page in reversed(pages) for each in describe(page)]
    assert [(question, text) for question, _, text in told] == [(f"q{n}", f"a{n}") for n in range(7)]
    assert [len(page.open_requests) for page in pages] == [1, 0, 0]


def test_large_answers_make_short_pages(store: ThreadStore, conversation: Conversation) -> None:
    half = "x" * (PAGE_BYTES // 2)
    for _ in range(5):
        event = conversation.say()
        conversation.answer(message(event.seq, half), ends=event)

    page = read(store, conversation)

    assert len(page.exchanges) == 2
    assert page.before == page.exchanges[0].answer.seq
    assert len(read(store, conversation, before=page.before, limit=2).exchanges) == 2


def test_page_after_compaction_says_the_same(store: ThreadStore, conversation: Conversation, query: Query) -> None:
    for text in ("one", "two"):
        conversation.exchange(*text)
    before = describe(read(store, conversation))

    query("DELETE FROM effects WHERE payload->>'type' = 'token'")

    assert describe(read(store, conversation)) == before


def test_log_of_a_thread_begun_anew_has_another_name(
    store: ThreadStore, conversation: Conversation, writer: RecordingWriter, query: Query
) -> None:
    conversation.exchange("a")
    first = read(store, conversation).log
    conversation.claim()
    assert read(store, conversation).log == first

    for table in ("sessions", "events", "effects", "turns"):
        query(f"DELETE FROM {table} WHERE session_key = %s", conversation.key)
    again = Conversation(writer, conversation.key)
    again.claim()
    assert store.read_thread(again.key, limit=10) is None
    again.say()

    assert read(store, again).log != first


def test_log_is_named_by_the_microsecond() -> None:
    assert name_log(datetime(1970, 1, 1, 0, 0, 0, 255, tzinfo=UTC)) == "ff"


def make_threads(writer: RecordingWriter, *keys: str) -> None:
    for key in keys:
        conversation = Conversation(writer, key)
        conversation.claim()
        conversation.exchange("a")


def test_threads_are_listed_with_the_newest_first(store: ThreadStore, writer: RecordingWriter) -> None:
    make_threads(writer, "ann:echo:t1", "ann:eliza:t2", "bob:echo:t1", "ann:echo:t3")

    listed = store.list_threads("ann", limit=10)

    assert [thread.session_key for thread in listed] == ["ann:echo:t3", "ann:eliza:t2", "ann:echo:t1"]
    assert (listed[0].agent_id, listed[0].thread_id, listed[0].head) == ("echo", "t3", 2)
    assert [thread.thread_id for thread in store.list_threads("ann", agent_id="echo", limit=10)] == ["t3", "t1"]
    assert store.list_threads("carl", limit=10) == []


def test_pages_of_threads_join_to_the_whole_list(store: ThreadStore, writer: RecordingWriter, query: Query) -> None:
    make_threads(writer, *(f"ann:echo:t{number}" for number in range(5)))
    query("UPDATE sessions SET created_at = '2030-01-01' WHERE thread_id IN ('t1', 't2', 't3')")  # at one instant

    seen: list[str] = []
    page = store.list_threads("ann", limit=2)
    while page:
        seen += [thread.thread_id for thread in page]
        page = store.list_threads("ann", before=(page[-1].created_at, page[-1].session_key), limit=2)

    assert seen == ["t3", "t2", "t1", "t4", "t0"]


def test_thread_in_which_nothing_was_said_is_not_listed(store: ThreadStore, writer: RecordingWriter) -> None:
    Conversation(writer, "ann:echo:t1").claim()

    assert store.list_threads("ann", limit=10) == []


def test_listing_and_paging_read_by_index(conversation: Conversation, database: PooledPostgresqlDatabase) -> None:
    database.execute_sql("SET enable_seqscan = off")  # the tables are too small for it to be dearer by itself
    for sql, parameters, index in (
        (USERS_THREADS, ("ann", None, None, datetime.now(UTC), "", 10), "sessions_user"),
        (ENDS, (conversation.key, 100, 10, conversation.key, 10, PAGE_BYTES), "effect_session_key_seq"),
    ):
        plan = "\n".join(row[0] for row in database.execute_sql(f"EXPLAIN {sql}", parameters))
        assert index in plan
        assert "Seq Scan" not in plan


def test_end_of_a_request_is_found_by_its_event(store: ThreadStore, conversation: Conversation) -> None:
    first = conversation.exchange("a", "b")
    second = conversation.say("second")
    conversation.answer(token(second.seq, "c"), cancelled(second.seq), ends=second, status=TurnStatus.CANCELLED)
    open_one = conversation.say("third")
    conversation.answer(token(open_one.seq, "d"))

    found = store.find_end(conversation.key, first.seq)
    assert found is not None
    assert (found.seq, found.payload["type"], found.payload["message"]) == (3, "message", "ab")
    cancel = store.find_end(conversation.key, second.seq)
    assert cancel is not None
    assert (cancel.seq, cancel.payload["type"]) == (5, "cancelled")
    assert store.find_end(conversation.key, open_one.seq) is None
    assert store.find_end(conversation.key, 99) is None
    assert store.find_end("nobody:echo:t1", 1) is None
