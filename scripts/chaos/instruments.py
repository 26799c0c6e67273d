"""What is put into the servers of a run, in the place of their own methods."""

import json
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import wraps
from typing import Any, Final, TypeVar

from storage.batch_committer import BatchCommitter
from storage.records import Report, SessionWrite
from storage.write_statement import WriteAnswer
from storage.writer_connection import WriterTransaction

Method = TypeVar("Method", bound=Callable[..., Any])

TELL_EPOCHS: Final = "SELECT set_config('chaos.epochs', %s, true)"


def wrap(owner: type, name: str) -> Callable[[Method], Method]:
    """Return a decorator that puts a function in a method's place; it is given the method first."""
    original = getattr(owner, name)

    def put(function: Method) -> Method:
        @wraps(original)
        def call(*arguments: object) -> object:
            return function(original, *arguments)

        setattr(owner, name, call)
        return function

    return put


def tell_epochs() -> None:
    """Have the writer tell the witness, in each transaction, under which epochs it writes (`scripts.chaos.witness`)."""

    @wrap(BatchCommitter, "_write")
    def write(
        original: Callable[..., WriteAnswer],
        committer: BatchCommitter,
        transaction: WriterTransaction,
        writes: Sequence[SessionWrite],
        deliveries: Sequence[Report],
        now: datetime,
    ) -> WriteAnswer:
        if writes:
            transaction.run([(TELL_EPOCHS, (json.dumps({write.session_key: write.epoch for write in writes}),))])
        return original(committer, transaction, writes, deliveries, now)
