"""Logging: text for people, JSON for machines, on standard error. Never message text, tokens or secrets."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Final

STANDARD_FIELDS: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
"""What each record has; whatever else is in one was added by its call, with `extra`."""


class JsonFormatter(logging.Formatter):
    """One JSON object per line: when, how grave, who says it, what, and the call's own fields that are plain values."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        line.update(
            {
                name: value
                for name, value in vars(record).items()
                if name not in STANDARD_FIELDS and isinstance(value, str | int | float)
            }
        )
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


def configure_logging(*, level: str, log_format: str) -> None:
    """Send all logs to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    if log_format == "json":
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s"))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.getLogger("peewee").setLevel(logging.WARNING)
