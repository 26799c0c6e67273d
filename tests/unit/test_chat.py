import re

import pytest
from click.testing import CliRunner

from scripts import chat, chat_connection


@pytest.mark.parametrize(
    "arguments",
    [["--url", "ws://h:x"], ["--thread", ""], ["--thread", "a/b"], ["--agent", "é"], ["--agent", "x" * 129]],
)
def test_unusable_option_is_named_in_a_usage_error(arguments: list[str]) -> None:
    result = CliRunner().invoke(chat.chat, arguments)

    assert result.exit_code == 2
    assert f"'{arguments[0]}'" in result.output


def test_fresh_thread_id_is_a_key_part() -> None:
    thread = chat_connection.make_thread_id()

    assert re.fullmatch(r"[a-z]+-[a-z]+-\d{5}", thread)
    assert chat_connection.KEY_PART.fullmatch(thread)
