"""Logs: one JSON line for each event on standard error, named, with key=value, levels by room, repeats counted.

    {"at": "2026-01-31T12:00:00.123Z", "level": "info", "room": "node", "event": "started", "node": "0", "height": 12}

Libraries that use the standard logging come out in the same form. The same message of the same room more than a few
times within a period is counted instead of written; the count is written when the period is over.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, Final

import structlog

from ledger.errors import UsageError

LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}
REPEATS: Final = 5  # of one event in a period
PERIOD_S: Final = 10.0
MAX_EVENTS_COUNTED: Final = 1000
ROOT: Final = "quorix"


class _Repeats(logging.Filter):
    """Lets the first few of equal events through in each period and counts the rest."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[tuple[str, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.msg
        event = str(message.get("event")) if isinstance(message, dict) else str(message)
        key = (record.name, event[:200])
        started, count = self._seen.get(key, (record.created, 0))
        if record.created - started > PERIOD_S:
            if count > REPEATS and isinstance(message, dict):
                message["repeated"] = count - REPEATS
            started, count = record.created, 0
        if len(self._seen) > MAX_EVENTS_COUNTED:
            self._seen.clear()
        self._seen[key] = (started, count + 1)
        return count < REPEATS or record.levelno >= logging.ERROR


def set_up(levels: str, stream: Any = None) -> None:
    """Write all logs as JSON lines to `stream` (standard error). `levels`: "info" or "info,p2p=debug"."""
    base, rooms = parse_levels(levels)
    shared: list[Any] = [_room, structlog.processors.TimeStamper(fmt="iso", utc=True, key="at")]
    structlog.configure(
        processors=[structlog.stdlib.add_log_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(), wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.add_log_level, *shared],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta, structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
    )
    handler = logging.StreamHandler(sys.stderr if stream is None else stream)
    handler.setFormatter(formatter)
    handler.addFilter(_Repeats())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(base, logging.WARNING))
    logging.getLogger(ROOT).setLevel(base)
    for room, level in rooms.items():
        logging.getLogger(f"{ROOT}.{room}").setLevel(level)


def logger(room: str, **bound: Any) -> Any:
    """A structured logger of a room; `bound` is part of each of its entries."""
    return structlog.get_logger(f"{ROOT}.{room}").bind(**bound)


def parse_levels(text: str) -> tuple[int, dict[str, int]]:
    """(level of all rooms, level of named ones). Raises UsageError."""
    base, rooms = LEVELS["info"], {}
    for part in text.split(","):
        room, equals, name = part.strip().rpartition("=")
        if name not in LEVELS:
            raise UsageError(f"log level {name!r}; one of {', '.join(LEVELS)}", hint="for example info,p2p=debug")
        if equals:
            rooms[room] = LEVELS[name]
        else:
            base = LEVELS[name]
    return base, rooms


def _room(source: Any, _: str, entry: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    record = entry.get("_record")
    name = record.name if record is not None else str(getattr(source, "name", ROOT))
    entry["room"] = name.removeprefix(f"{ROOT}.")
    return entry
