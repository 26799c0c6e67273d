"""What figures depend on besides the code: the machine, and how busy it is."""

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Where a run takes place.

    Attributes:
        cores: Processors that this process may use.
        libraries: Versions of the distributions that matter, by name.
        load: Processes that ran or waited to, in the last minute before the run; the machine's own work, if it is idle,
            is well below 1.
    """

    cores: int
    python: str
    libraries: Mapping[str, str]
    system: str
    load: float


def describe_machine(libraries: Sequence[str] = ()) -> Machine:
    """Look at this machine.

    Args:
        libraries: Names of distributions whose versions matter; those that are not installed are left out.
    """
    return Machine(
        cores=len(os.sched_getaffinity(0)),
        python=f"{platform.python_implementation()} {platform.python_version()}",
        libraries=find_versions(libraries),
        system=f"{platform.system()} {platform.machine()}",
        load=os.getloadavg()[0],
    )


def find_versions(libraries: Sequence[str]) -> dict[str, str]:
    """Return the versions of those distributions that are installed."""
    versions = {}
    for name in libraries:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions
