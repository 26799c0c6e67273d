import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conformance.conftest import SHARED_MEMORY_TESTS, SUITE_DIR
from tests.conformance.exclusions import EXCLUSIONS, NOT_HERE, NOT_ON_ONE_PROCESS, SLOW
from tests.conformance.skips import find_fault

ROOT = Path(__file__).parents[2]
SUITE = "tests/conformance/thespian.suite"


def run_pytest(*arguments: str, prepare: str = "") -> str:
    """Run pytest on the suite in a process of its own; return what it prints."""
    code = f"import sys, pytest\n{prepare}\nsys.exit(pytest.main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "-p", "no:cacheprovider", "-p", "no:xdist", "-q", *arguments, SUITE]
    return subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=60, check=False).stdout


@pytest.mark.slow(reason="collects all of Thespian's suite")
def test_every_excluded_test_is_in_the_installed_suite() -> None:
    collected = re.findall(r"/(\w+)\.py::(?:\w+::)?((\w+)\S*)$", run_pytest("--collect-only", "--slow"), re.MULTILINE)
    names = {f"{module}.{name}" for module, *both in collected for name in both}
    assert len(collected) > 500
    assert {*EXCLUSIONS, *SLOW, *SHARED_MEMORY_TESTS} - names == set()


@pytest.mark.parametrize("name", sorted(SHARED_MEMORY_TESTS))
def test_renamed_base_is_asked_for_by_name(name: str) -> None:
    module, test = name.split(".")
    text = (SUITE_DIR / f"{module}.py").read_text()
    (function,) = [
        node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef) and node.name == test
    ]
    asked = r"if asys\.base_name (in \['simpleSystemBase'\]|!= 'simpleSystemBase'):"
    assert re.search(asked, ast.get_source_segment(text, function) or "")


@pytest.mark.slow(reason="runs a part of Thespian's suite again")
def test_skip_of_the_suites_own_fails_unless_named() -> None:
    clear = "from tests.conformance.exclusions import *; NOT_ON_ONE_PROCESS.clear(); EXCLUSIONS.clear()"
    printed = run_pytest("-k", "testChildSig and not testChildSigCont", prepare=clear)
    assert "skipped by the suite, but not named in EXCLUSIONS: test_actorSignals.testChildSig" in printed
    assert " failed" in printed.splitlines()[-1]


def make_report(when: str, outcome: str) -> pytest.TestReport:
    return pytest.TestReport("a test", ("file", 1, "domain"), {}, outcome, None, when)  # type: ignore[arg-type]


@pytest.mark.parametrize("when", ["setup", "call"])
def test_named_test_that_is_skipped_is_in_order(when: str) -> None:
    for name in EXCLUSIONS:
        assert find_fault({name}, make_report(when, "skipped")) is None


@pytest.mark.parametrize("outcome", ["passed", "failed"])
def test_named_test_that_runs_after_all_fails(outcome: str) -> None:
    name = next(iter(NOT_ON_ONE_PROCESS))
    assert find_fault({name}, make_report("setup", "passed")) is None
    assert f"though named in NOT_ON_ONE_PROCESS: {name}" in str(find_fault({name}, make_report("call", outcome)))


def test_test_that_is_not_named_may_pass_or_fail() -> None:
    for outcome in ("passed", "failed"):
        assert find_fault({"test_this.that"}, make_report("call", outcome)) is None


def test_each_exclusion_has_one_ground() -> None:
    assert not NOT_ON_ONE_PROCESS.keys() & NOT_HERE.keys()
    assert not EXCLUSIONS.keys() & SHARED_MEMORY_TESTS
