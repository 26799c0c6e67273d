"""A run's result: verdict, tables, JSON document and page."""

import json
from datetime import UTC, datetime
from html.parser import HTMLParser

import pytest
from rich.console import Console

from scripts.load.answer import Fault
from scripts.load.outcome import End, Outcome
from scripts.load.plots import draw_plots
from scripts.load.recorder import HIGHEST_US, Count, Metric, Recorder, Timing
from scripts.load.report import make_page
from scripts.load.result import EXIT_CODES, LoadResult, Verdict, describe_verdict, make_document, make_result
from scripts.load.table import format_ms, print_result
from scripts.load.verifier import Violation
from tests.unit.test_load_conversation import make_plan

HOSTILE = "<script>alert(1)</script> & \"'"
COMPLETED = Outcome(end=End.COMPLETED)


class Seconds:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now_s = 5.0

    def __call__(self) -> float:
        return self.now_s


def record_run(*, seconds: int = 3, answers: int = 10) -> Recorder:
    """Record a run of so many seconds with so many answers in each."""
    clock = Seconds()
    recorder = Recorder(clock)
    for _ in range(seconds):
        clock.now_s += 1
        for number in range(answers):
            recorder.time(Metric.FIRST_TOKEN, 0.2 + number / 1000)
            recorder.time(Metric.ANSWER, 1.0)
        recorder.counts[Count.ANSWERED] += answers
        recorder.counts[Count.FRAMES] += answers * 3
        recorder.take_sample()
    return recorder


def report_fault(recorder: Recorder, detail: str = "something") -> None:
    violation = Violation(fault=Fault.GAP, number=1, detail=detail)
    recorder.report(violation, thread="load-r-1", request_id="r-1-1", events=[f"0.1 {detail}"])


def make(recorder: Recorder, outcome: Outcome = COMPLETED, *, url: str = "ws://127.0.0.1:8888") -> LoadResult:
    started_at = datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC)
    return make_result(make_plan(url=url), recorder, outcome, started_at=started_at, machine="2 cores")


def render(result: LoadResult) -> str:
    console = Console(width=120, no_color=True)
    with console.capture() as captured:
        print_result(result, console)
    return captured.get()


def with_fault(recorder: Recorder) -> Recorder:
    report_fault(recorder)
    return recorder


@pytest.mark.parametrize(
    ("recorder", "end", "verdict", "exit_code"),
    [
        (record_run(), End.COMPLETED, Verdict.PASSED, 0),
        (record_run(), End.INTERRUPTED, Verdict.PASSED, 0),
        (record_run(answers=0), End.COMPLETED, Verdict.UNANSWERED, 1),
        (with_fault(record_run()), End.COMPLETED, Verdict.VIOLATED, 1),
        (with_fault(record_run()), End.LOST, Verdict.VIOLATED, 1),
        (record_run(), End.LOST, Verdict.LOST, 3),
    ],
)
def test_verdict_and_exit_code_follow_from_the_run(
    recorder: Recorder, end: End, verdict: Verdict, exit_code: int
) -> None:
    result = make(recorder, Outcome(end=end, reason="gone"))

    assert (result.verdict, EXIT_CODES[result.verdict]) == (verdict, exit_code)


def test_verdict_names_violations_and_early_ends() -> None:
    assert describe_verdict(make(record_run())) == "no violations: 30 of 2 answers in 3.0 s"
    assert "1 violation (1 gap)" in describe_verdict(make(with_fault(record_run())))
    assert "interrupted" in describe_verdict(make(record_run(), Outcome(end=End.INTERRUPTED)))
    assert "connection refused" in describe_verdict(
        make(record_run(), Outcome(end=End.LOST, reason="connection refused"))
    )


def test_percentiles_are_exact_to_three_digits() -> None:
    timing = Timing()
    for number in range(1, 1001):
        timing.add(number / 1000)

    assert timing.read_percentiles_ms() == pytest.approx([500, 900, 990, 999], rel=0.001)
    assert (timing.max_ms, len(timing)) == (1000, 1000)


def test_times_out_of_range_are_recorded_at_its_ends() -> None:
    timing = Timing()
    for seconds in (-1.0, 0.0, 1e9):
        timing.add(seconds)

    assert len(timing) == 3
    assert timing.max_ms == (HIGHEST_US - 1) / 1000


def test_sample_holds_what_happened_since_the_last() -> None:
    recorder = record_run(seconds=2, answers=10)

    first, second = recorder.samples
    assert (first.at_s, second.at_s) == (1.0, 2.0)
    assert (second.answers_per_s, second.frames_per_s) == (10.0, 30.0)
    assert second.first_token_ms == pytest.approx((204, 209), rel=0.01)


def test_document_holds_all_figures_as_json() -> None:
    recorder = with_fault(record_run())
    recorder.refusals["busy"] += 2

    document = json.loads(json.dumps(make_document(make(recorder)), allow_nan=False))

    assert (document["verdict"], document["exit_code"], document["end"]) == ("violated", 1, "completed")
    assert document["timings_ms"]["first_token"]["count"] == 30
    assert document["timings_ms"]["first_token"]["p50"] == pytest.approx(204, rel=0.01)
    assert document["timings_ms"]["connect"] == dict.fromkeys(["p50", "p90", "p99", "p99.9", "max"]) | {"count": 0}
    assert document["rates_per_s"]["answered"] == 10.0
    assert (document["violations"], document["refusals"]) == ({"gap": 1}, {"busy": 2})
    assert document["findings"][0]["request_id"] == "r-1-1"
    assert document["plan"]["seed"] == 1
    assert len(document["samples"]) == 3


def test_table_shows_percentiles_counts_and_violations() -> None:
    text = render(make(with_fault(record_run())))

    line = next(line for line in text.splitlines() if "time to first token" in line)
    assert " ".join(line.split()) == "│ time to first token │ 204 │ 208 │ 209 │ 209 │ 209 │ 30 │"
    assert "│ answers │ 30 │ 10.0 │" in " ".join(text.split())
    assert "violation: gap (3.000 s, load-r-1, request r-1-1): something" in text
    assert text.splitlines()[-1].startswith("1 violation (1 gap)")


def test_table_says_when_the_load_generator_was_late() -> None:
    recorder = record_run()
    assert "late" not in render(make(recorder))

    recorder.time(Metric.OWN_LAG, 0.3)

    assert "load generator was late" in render(make(recorder))


@pytest.mark.parametrize(
    ("value", "text"), [(None, "-"), (0.123, "0.12"), (9.99, "9.99"), (12.34, "12.3"), (1234.5, "1,234")]
)
def test_milliseconds_have_about_three_digits(value: float | None, text: str) -> None:
    assert format_ms(value) == text


class Tags(HTMLParser):
    """Checks that tags are balanced, and keeps what they refer to."""

    VOID = frozenset({"meta"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.names: set[str] = set()
        self.links: list[str] = []
        self.ids: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.links += [value or "" for name, value in attrs if name in ("href", "src", "xlink:href")]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


@pytest.fixture(scope="module")
def page() -> str:
    """The page of a run with all that can be in it, hostile text too."""
    recorder = record_run()
    report_fault(recorder, HOSTILE)
    result = make(recorder, Outcome(end=End.LOST, reason=HOSTILE), url=f"ws://h/{HOSTILE}")
    return make_page(result, draw_plots(recorder.timings, recorder.samples))


def test_page_has_verdict_figures_plots_and_violations(page: str) -> None:
    for words in ("1 violation (1 gap)", "time to first token", "First token over time", "Distribution", "--seed"):
        assert words in page
    assert page.count("<svg") == 4


def test_page_escapes_all_text_that_comes_from_outside(page: str) -> None:
    assert "<script" not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt; &amp; &quot;&#x27;") >= 4


def test_page_is_well_formed_and_needs_no_other_file(page: str) -> None:
    tags = Tags(page)

    assert tags.open == []
    assert not tags.names & {"script", "link", "img", "iframe", "object", "image"}
    assert all(link.startswith("#") for link in tags.links)
    assert "@import" not in page
    assert "url(http" not in page


def test_plots_of_an_empty_run_are_left_out() -> None:
    recorder = Recorder(Seconds())

    assert draw_plots(recorder.timings, recorder.samples) == {}
    assert "<svg" not in make_page(make(recorder), {})


def test_plots_on_one_page_do_not_share_names(page: str) -> None:
    names = Tags(page).ids

    assert names
    assert len(names) == len(set(names))
