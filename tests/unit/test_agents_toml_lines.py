import tomllib

import pytest

from actors.agents.toml_lines import find_error_line, find_line

DOCUMENT = '''\
# [agents.eliza] is only spoken of here
default = "eliza"

[agents.eliza]
kind = "eliza"
"word_delay_ms" = 5

[ agents . "helper" ]
system_prompt = """
[agents.late]
kind = "never"
"""
list = [
  1,
  2,
]
inline = {kind = "x", deep = {er = 1}}
dotted.inner.most = 1
'literal key' = 1

[agents.late]
kind = "late"
'''


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("default",), 2),
        (("agents",), 4),
        (("agents", "eliza"), 4),
        (("agents", "eliza", "kind"), 5),
        (("agents", "eliza", "word_delay_ms"), 6),
        (("agents", "helper"), 8),
        (("agents", "helper", "system_prompt"), 9),
        (("agents", "helper", "list"), 13),
        (("agents", "helper", "inline", "deep", "er"), 17),
        (("agents", "helper", "dotted", "inner", "most"), 18),
        (("agents", "helper", "literal key"), 19),
        (("agents", "late"), 21),
        (("agents", "late", "kind"), 22),
    ],
)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_key_is_found_however_it_is_written(path: tuple[str, ...], line: int, newline: str) -> None:
    assert find_line(DOCUMENT.replace("\n", newline), path) == line


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("agents", "eliza", "missing"), 4),
        (("agents", "eliza", "kind", "deeper"), 5),
        (("agents", "nobody", "kind"), 4),
        (("missing",), 1),
        ((), 1),
    ],
)
def test_missing_key_is_looked_for_around_it(path: tuple[str, ...], line: int) -> None:
    assert find_line(DOCUMENT, path) == line


def test_long_document_is_searched_fast() -> None:
    agents = "".join(f'[agents.a{n}]\nkind = "echo"\nprompt = """{chr(10) * 20}"""\n' for n in range(100))
    assert find_line(agents, ("agents", "a99", "kind")) == 99 * 23 + 2


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("a = 1\nb =\n", 2, "Invalid value"),
        ("a = 1\nb = [1,\n", 2, "Invalid value"),
        ("a = 1\na = 2\n", 2, "Cannot overwrite a value"),
        ("[a]\n\n[a]\n", 3, "Cannot declare"),
        ('a = "', 1, "Unterminated string"),
        ("\n\na = " + "9" * 5000, 3, "limit"),
        ("\na = " + "[" * 5000 + "\n\n", 2, ""),
    ],
)
def test_syntax_error_has_its_line(text: str, line: int, message: str) -> None:
    with pytest.raises((ValueError, RecursionError)) as refusal:
        tomllib.loads(text)
    found_line, found_message = find_error_line(text, refusal.value)
    assert found_line == line
    assert message in found_message
    assert "(at " not in found_message
