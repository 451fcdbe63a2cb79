# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the log goes, at which level, and what may be in it.

Owns the handlers of the root logger. Log lines quote names that devices and strangers chose,
so whatever does not print is replaced: nothing can forge a line or reach a terminal's
controls. What can go wrong with every packet is logged once: mark it with ``extra=ONCE``.
"""

import logging
import sys
import syslog
from collections.abc import Mapping
from typing import TextIO

from spind.text import inert

# The levels of syslog (RFC 5424 section 6.2.1), as ``log_loglevel`` has them, and logging's.
NOTICE = 25
LEVELS = (
    logging.CRITICAL,  # 0 emergency
    logging.CRITICAL,  # 1 alert
    logging.CRITICAL,  # 2 critical
    logging.ERROR,  # 3
    logging.WARNING,  # 4
    NOTICE,  # 5
    logging.INFO,  # 6
    logging.DEBUG,  # 7
)

ONCE: Mapping[str, object] = {"once": True}
"""For ``extra``: log this message's first occurrence only, whatever its arguments are. A text
in place of ``True`` distinguishes occurrences; it must not come from the network."""

_MAX_LINE = 2000  # characters of a message


def syslog_priority(level: int) -> int:
    """The syslog level (0 to 7) of one of logging's."""
    for priority, limit in ((2, logging.CRITICAL), (3, logging.ERROR), (4, logging.WARNING), (5, NOTICE)):
        if level >= limit:
            return priority
    return 6 if level >= logging.INFO else 7


class RepeatFilter(logging.Filter):
    """Lets the first of each message that is marked with ``ONCE`` pass.

    Bound: ``limit`` different ones are remembered; beyond, the oldest is forgotten, and is
    logged again if it still happens. ``suppressed`` counts what did not pass.
    """

    def __init__(self, limit: int = 512) -> None:
        super().__init__()
        self.suppressed = 0
        self._limit = limit
        self._seen: dict[tuple[object, ...], None] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to log it."""
        once = getattr(record, "once", None)
        if once is None:
            return True
        kind = record.exc_info[0] if record.exc_info else None
        key = (record.name, record.levelno, record.msg, kind, once)
        if key in self._seen:
            self.suppressed += 1
            return False
        if len(self._seen) >= self._limit:
            del self._seen[next(iter(self._seen))]
        self._seen[key] = None
        return True


class InertFormatter(logging.Formatter):
    """Formats with ``text.inert``, each line of a traceback for itself."""

    def format(self, record: logging.LogRecord) -> str:
        """The whole entry."""
        record.exc_text = None  # another handler's formatter may have left its own there
        return super().format(record)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  (logging's name)
        """Put the message in its line."""
        record.message = inert(record.message, _MAX_LINE)
        return super().formatMessage(record)

    def formatException(self, ei: object) -> str:  # noqa: N802  (logging's name)
        """Put a traceback in lines."""
        text = super().formatException(ei)  # type: ignore[arg-type]
        return "\n".join(inert(line, _MAX_LINE) for line in text.split("\n"))


class SyslogHandler(logging.Handler):
    """Sends to the system's log, one entry a line."""

    def __init__(self, ident: str = "spind") -> None:
        super().__init__()
        syslog.openlog(ident, syslog.LOG_PID, syslog.LOG_DAEMON)

    def emit(self, record: logging.LogRecord) -> None:
        """Log a record."""
        try:
            priority = syslog_priority(record.levelno)
            for line in self.format(record).split("\n"):
                syslog.syslog(priority, line)
        except Exception:
            self.handleError(record)


def setup(level: int, *, use_syslog: bool = False, stream: TextIO | None = None) -> RepeatFilter:
    """Log from syslog level ``level`` (0 to 7) up, to syslog or to ``stream`` (standard error).

    Replaces what an earlier call set up, so it serves a reload too. Lines on a terminal have
    a time; elsewhere whoever collects them (procd, systemd) adds it.
    """
    logging.addLevelName(NOTICE, "NOTICE")
    handler: logging.Handler
    if use_syslog:
        handler = SyslogHandler()
        form = "%(name)s: %(message)s"
    else:
        out = stream or sys.stderr
        handler = logging.StreamHandler(out)
        form = "%(asctime)s " if out.isatty() else ""
        form += "%(levelname)s %(name)s: %(message)s"
    handler.setFormatter(InertFormatter(form))
    repeats = RepeatFilter()
    handler.addFilter(repeats)
    root = logging.getLogger()
    for old in list(root.handlers):
        if isinstance(old.formatter, InertFormatter):
            root.removeHandler(old)
            old.close()
    root.addHandler(handler)
    root.setLevel(LEVELS[min(max(level, 0), 7)])
    return repeats
