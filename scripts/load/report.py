"""A run's result as one HTML page that needs nothing else: no script, no style sheet, no picture from elsewhere."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from html import escape

from scripts.load.recorder import PERCENTILES, Finding, Metric
from scripts.load.result import LoadResult, Verdict, describe_verdict
from scripts.load.table import list_counts, list_timing_cells

STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
.verdict { padding: .6rem 1rem; border-left: .4rem solid #b00020; background: #fdeaec; }
.verdict.passed { border-color: #1b7f3b; background: #e8f5ec; }
table { border-collapse: collapse; } th, td { padding: .2rem .8rem; border-bottom: 1px solid #ddd; text-align: right; }
th:first-child, td:first-child { text-align: left; }
svg { width: 100%; height: auto; } pre { background: #f5f5f5; padding: .6rem; overflow-x: auto; }
"""


def make_page(result: LoadResult, plots: Mapping[str, str]) -> str:
    """Return the page.

    Args:
        result: The run.
        plots: Titles and `<svg>` elements, which go in as they are; all other text is escaped.
    """
    sections = (
        _make_verdict(result),
        _make_section("Times in milliseconds", _make_timings(result)),
        _make_section("Counts", _make_table(("count", "", "per second"), list_counts(result))),
        *(_make_section(title, svg) for title, svg in plots.items()),
        _make_findings(result.findings),
        _make_section("Options", _make_table(("option", "value"), _list_options(result))),
    )
    head = f'<meta charset="utf-8"><title>Callboard load test</title><style>{STYLE}</style>'
    body = "".join(section for section in sections if section)
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head><body>{body}</body></html>\n'


def _make_verdict(result: LoadResult) -> str:
    kind = "verdict passed" if result.verdict is Verdict.PASSED else "verdict"
    began = result.started_at.strftime("%Y-%m-%d %H:%M:%S %Z")
    return (
        f"<h1>Callboard load test</h1><p>{escape(result.plan.url)}, {escape(began)}; load generator: "
        f'{escape(result.machine)}</p><p class="{kind}">{escape(describe_verdict(result))}</p>'
    )


def _make_timings(result: LoadResult) -> str:
    headings = ("what", *(f"p{percentile:g}" for percentile in PERCENTILES), "max", "values")
    return _make_table(headings, ((metric.value, *list_timing_cells(result, metric)) for metric in Metric))


def _make_findings(findings: Sequence[Finding]) -> str:
    if not findings:
        return ""
    return _make_section("Violations", "".join(_make_finding(finding) for finding in findings))


def _make_finding(finding: Finding) -> str:
    title = f"{finding.fault.value} at {finding.at_s:.3f} s, {finding.thread}, request {finding.request_id or '-'}"
    events = escape("\n".join(finding.events))
    return f"<details><summary>{escape(title)}: {escape(finding.detail)}</summary><pre>{events}</pre></details>"


def _list_options(result: LoadResult) -> Iterable[tuple[str, str]]:
    return ((f"--{name.replace('_', '-')}", str(value)) for name, value in asdict(result.plan).items())


def _make_section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{content}</section>"


def _make_table(headings: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
