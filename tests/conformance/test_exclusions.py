import inspect
import re

import pytest

from tests.conformance.conftest import SHARED_MEMORY_TESTS, SUITE_DIR
from tests.conformance.exclusions import EXCLUSIONS, SLOW


@pytest.mark.parametrize("name", sorted({*EXCLUSIONS, *SLOW}))
def test_excluded_test_is_in_the_installed_suite(name: str) -> None:
    module, test = re.match(r"(\w+)\.(\w+)", name).groups()  # type: ignore[union-attr]
    assert f"def {test}(" in (SUITE_DIR / f"{module}.py").read_text()


@pytest.mark.parametrize("name", sorted(SHARED_MEMORY_TESTS))
def test_renamed_base_is_asked_for_by_name(name: str) -> None:
    text = "".join(path.read_text() for path in SUITE_DIR.glob("test_*.py"))
    body = text[text.index(f"def {name}(") :]
    assert "asys.base_name in ['simpleSystemBase']" in inspect.cleandoc(body)[:3000]
