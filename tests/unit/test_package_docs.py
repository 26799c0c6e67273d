"""The docstrings of packages are their tables of contents: each module is named there."""

import ast
import re
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = sorted(
    str(path.parent.relative_to(ROOT))
    for top in ("actors", "server", "storage", "scripts")
    for path in (ROOT / top).rglob("__init__.py")
    if path.parent.name != "migrations"
)


@pytest.mark.parametrize("package", PACKAGES)
def test_docstring_of_a_package_names_its_modules(package: str) -> None:
    text = ast.get_docstring(ast.parse((ROOT / package / "__init__.py").read_text())) or ""
    named = re.findall(r"[a-z_0-9]+\*?", text.lower())
    modules = [path.stem for path in (ROOT / package).glob("*.py") if path.stem != "__init__"]
    assert [name for name in modules if not any(fnmatchcase(name, pattern) for pattern in named)] == []
