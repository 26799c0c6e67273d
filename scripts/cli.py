"""Where `callboard` begins: signals first, then what takes long to load."""

import os
import signal
from types import FrameType
from typing import Final

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)

BY_SIGNAL: Final = 128
"""Is added to a signal's number, as shells do."""


def main() -> None:
    """Run the command. Before and after it there is nothing to unwind, so that a signal ends the process at once."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    wanted = [number for number, handler in before.items() if handler is not signal.SIG_IGN]  # as of `nohup`, and `&`
    for number in wanted:
        signal.signal(number, end_at_once)
    from scripts.commands import main as run

    for number in wanted:
        signal.signal(number, before[number])
    try:
        run()
    finally:
        for number in wanted:
            signal.signal(number, end_at_once)


def end_at_once(number: int, _: FrameType | None) -> None:
    """End without a word."""
    os._exit(BY_SIGNAL + number)


if __name__ == "__main__":
    main()
