"""How many connections the operating system lets this process have: each is an open file."""

import logging
import resource
from typing import Final

RESERVED_FILES: Final = 256
"""What is open besides: the database's connections, logs, the agents' own, and connections that are being refused."""

log = logging.getLogger(__name__)


def allow_connections(wanted: int) -> int:
    """Raise the soft limit of open files as far as so many connections need it, and the hard limit allows.

    Args:
        wanted: How many connections there may be.

    Returns:
        How many of them there can be, at least 1; if that is fewer, it is logged.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = choose_limit(soft, hard, wanted + RESERVED_FILES)
    if limit != soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    if limit == resource.RLIM_INFINITY or limit >= wanted + RESERVED_FILES:
        return wanted
    possible = max(1, limit - RESERVED_FILES)
    log.info(
        "At most %s connections, not %s (MAX_CONNECTIONS): the limit of open files is %s (ulimit -Hn)",
        possible,
        wanted,
        limit,
        extra={"action": "connections_limited"},
    )
    return possible


def choose_limit(soft: int, hard: int, wanted: int) -> int:
    """Return the soft limit to have: the present one if it is enough, else what is wanted, up to the hard one."""
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return soft
    return wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
