"""Holds the exclusions against what the suite does: what is skipped is named, and what is named is skipped.

A plugin of pytest, registered by `conftest`.
"""

from collections.abc import Generator
from typing import Any, Final

import pytest

from tests.conformance.exclusions import EXCLUSIONS, NOT_ON_ONE_PROCESS

NODE_ID: Final = "tests/conformance/thespian/"
"""What the node ids of the suite's tests begin with."""


def get_names(item: Any) -> set[str]:
    """Return what a test is called in `exclusions`: with its parameters, and without."""
    return {f"{item.path.stem}.{name}" for name in (item.name, item.originalname)}


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, None]:
    """Let a test of the suite fail that is skipped without our knowledge, or run against our word."""
    outcome = yield
    report = outcome.get_result()
    fault = find_fault(get_names(item), report) if item.nodeid.startswith(NODE_ID) else None
    if fault is not None:
        report.outcome = "failed"
        report.longrepr = fault


def find_fault(names: set[str], report: pytest.TestReport) -> str | None:
    """Return what is wrong with how a test of the suite went, in the light of its exclusion; None if nothing is.

    Args:
        names: The test's, with its parameters and without.
        report: Of its setup, call or teardown.
    """
    if hasattr(report, "wasxfail"):
        return None
    if report.skipped:
        return None if names & EXCLUSIONS.keys() else f"skipped by the suite, but not named in EXCLUSIONS: {min(names)}"
    if report.when == "call" and names & NOT_ON_ONE_PROCESS.keys():
        return f"run by the suite on the simple base, though named in NOT_ON_ONE_PROCESS: {min(names)}"
    return None
