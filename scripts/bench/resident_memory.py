"""How much memory processes hold, as Linux tells it in `/proc`."""

import gc
import os
from pathlib import Path

PROC = Path("/proc")


def measure_resident_bytes() -> int:
    """Return this process's resident set size, after all garbage is collected."""
    gc.collect()
    return read_resident_bytes(os.getpid())


def read_resident_bytes(pid: int) -> int:
    """Return a process's resident set size.

    Raises:
        FileNotFoundError: If there is no such process.
    """
    status = PROC / str(pid) / "status"
    for line in status.read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"{status} does not say VmRSS")
