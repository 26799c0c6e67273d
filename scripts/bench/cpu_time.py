"""How much processor time other processes have used, as Linux tells it in `/proc`."""

import os
from pathlib import Path
from typing import Final

PROC: Final = Path("/proc")

# Places of fields of /proc/<pid>/stat (proc_pid_stat(5)), counted from 0 behind the command's name.
PARENT: Final = 1
USED: Final = slice(11, 13)
USED_BY_ENDED_CHILDREN: Final = slice(13, 15)


def read_cpu_s(pid: int) -> float:
    """Return what a process has used of processors, with all its threads, in seconds to 10 ms.

    Raises:
        FileNotFoundError: If there is no such process.
    """
    return count_seconds(read_fields(PROC / str(pid)), USED)


def read_family_cpu_s(pid: int) -> float:
    """Return the same of a process and its children, also those that have ended; not of theirs.

    Raises:
        FileNotFoundError: If there is no such process.
    """
    own = read_fields(PROC / str(pid))
    used_s = count_seconds(own, USED) + count_seconds(own, USED_BY_ENDED_CHILDREN)
    for entry in PROC.iterdir():
        if entry.name.isdecimal():
            try:
                fields = read_fields(entry)
            except (FileNotFoundError, ProcessLookupError):
                continue  # it has just ended
            if int(fields[PARENT]) == pid:
                used_s += count_seconds(fields, USED)
    return used_s


def read_fields(entry: Path) -> list[str]:
    """Return the fields of a process that `PARENT` and the others name."""
    return split_fields((entry / "stat").read_text())


def split_fields(text: str) -> list[str]:
    """Return the fields behind the command's name, which may hold blanks and parentheses."""
    return text.rpartition(")")[2].split()


def count_seconds(fields: list[str], wanted: slice) -> float:
    """Return the sum of fields that count clock ticks, in seconds."""
    return sum(map(int, fields[wanted])) / os.sysconf("SC_CLK_TCK")
