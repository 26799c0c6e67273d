"""Which parts of a page of sessions to look at, and how much of them at a time. Pure."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from storage.retention_records import EffectSpan, EventSpan, SessionMarks

PIECE_EFFECTS: Final = 50
"""How many effects of a session are gone through at a time."""


def list_undelivered(page: Sequence[SessionMarks]) -> list[EffectSpan]:
    """Return what each session has undelivered, of turns that have ended."""
    return [
        EffectSpan(
            session_key=marks.session_key,
            after_seq=marks.delivered_effect_seq,
            to_seq=marks.last_effect_seq,
            before_event_seq=marks.processed_event_seq + 1,
        )
        for marks in page
        if marks.delivered_effect_seq < marks.last_effect_seq
    ]


def list_uncompacted(page: Sequence[SessionMarks]) -> list[EffectSpan]:
    """Return what each session has delivered and not compacted, of turns that have ended."""
    return [
        EffectSpan(
            session_key=marks.session_key,
            after_seq=marks.compacted_effect_seq,
            to_seq=marks.delivered_effect_seq,
            before_event_seq=marks.processed_event_seq + 1,
        )
        for marks in page
        if marks.compacted_effect_seq < marks.delivered_effect_seq
    ]


def list_unpurged(page: Sequence[SessionMarks]) -> list[EventSpan]:
    """Return each session's events that are processed and not purged."""
    return [
        EventSpan(
            session_key=marks.session_key,
            after_seq=marks.purged_event_seq,
            to_seq=marks.processed_event_seq,
            delivered_seq=marks.delivered_effect_seq,
        )
        for marks in page
        if marks.purged_event_seq < marks.processed_event_seq
    ]


def cut_spans(spans: Sequence[EffectSpan], limit: int) -> tuple[list[EffectSpan], list[EffectSpan]]:
    """Take spans from the front, each cut to a piece of `PIECE_EFFECTS`, until they hold `limit` effects together.

    In pieces, since how many of a span's effects are really due is only known when they are read.

    Returns:
        The pieces, at least one if there is a span; and the spans of which none was taken.
    """
    pieces: list[EffectSpan] = []
    for span in spans:
        if limit <= 0:
            break
        piece = replace(span, to_seq=min(span.to_seq, span.after_seq + PIECE_EFFECTS))
        pieces.append(piece)
        limit -= piece.to_seq - piece.after_seq
    return pieces, list(spans[len(pieces) :])


def list_rest(spans: Sequence[EffectSpan], ends: Sequence[EffectSpan]) -> list[EffectSpan]:
    """Return what is left of spans of which a piece was gone through.

    Args:
        spans: Whole, as they were.
        ends: The pieces, each to the last effect that was due; a piece that is missing was passed over.
    """
    reached = {end.session_key: end.to_seq for end in ends}
    rest = []
    for span in spans:
        piece_end = min(span.to_seq, span.after_seq + PIECE_EFFECTS)
        if reached.get(span.session_key) == piece_end < span.to_seq:
            rest.append(replace(span, after_seq=piece_end))
    return rest
