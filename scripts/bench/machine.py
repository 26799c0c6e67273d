"""What figures depend on besides the code: the machine, and how busy it is."""

import os
import platform
from dataclasses import dataclass
from importlib.metadata import version


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Where a run takes place.

    Attributes:
        cores: Processors that this process may use.
        load: Processes that ran or waited to, in the last minute before the run; the machine's own work, if it is idle,
            is well below 1.
    """

    cores: int
    python: str
    thespian: str
    system: str
    load: float


def describe_machine() -> Machine:
    """Look at this machine."""
    return Machine(
        cores=len(os.sched_getaffinity(0)),
        python=f"{platform.python_implementation()} {platform.python_version()}",
        thespian=version("thespian"),
        system=f"{platform.system()} {platform.machine()}",
        load=os.getloadavg()[0],
    )
