"""How much memory this process holds."""

import gc
from pathlib import Path

STATUS = Path("/proc/self/status")


def measure_resident_bytes() -> int:
    """Return this process's resident set size, after all garbage is collected."""
    gc.collect()
    for line in STATUS.read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"{STATUS} does not say VmRSS")
