"""Logging: messages of all modules to the terminal, and a log file per command that writes to the warehouse.

Modules log to `logging.getLogger(__name__)`. The log file contains all messages from level DEBUG on, and the traceback
of errors that the terminal shows as one sentence.
"""

from __future__ import annotations

import datetime as dt
import json
import logging
import os
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from star_ctr.conf.contracts.catalog import Warehouse
from star_ctr.conf.errors import UserError
from star_ctr.conf.redaction import dump_redacted, format_command
from star_ctr.conf.settings.root import Settings

_MAX_FILES = 500
"""Number of log files to keep in a warehouse."""
_FILE_NAME = re.compile(r"\d{8}T\d{6}\.\d{6}Z-[\w-]+-\d+\.log")
_ERROR_FILE = Path("build/error.log")
"""Log of the last error of a command that has no log file in a warehouse."""
_logger = logging.getLogger("star_ctr")
_failed_files: list[Path] = []
"""The log files of commands of this process that failed."""


class _StderrHandler(logging.StreamHandler[TextIO]):
    """Writes to the current `sys.stderr`.

    A caller may have replaced stderr since the handler was created, and closed the old one.
    """

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:
        return sys.stderr

    @stream.setter
    def stream(self, value: TextIO) -> None:
        """Do nothing: `setStream` has no effect."""


def configure_terminal(level: str) -> None:
    """Show log messages from a level on in the terminal (stderr).

    Args:
        level: `debug`, `info`, `warning` or `error`.
    """
    handler = _StderrHandler()
    handler.setLevel(level.upper())
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    for other in [h for h in _logger.handlers if isinstance(h, _StderrHandler)]:
        _logger.removeHandler(other)
    _logger.addHandler(handler)
    _logger.setLevel(logging.DEBUG)
    _logger.propagate = False
    # py4j prints tracebacks of errors, and of Ctrl-C, although it raises them too.
    logging.getLogger().addFilter(lambda record: "py4j" not in record.pathname)
    logging.getLogger("py4j").setLevel(logging.CRITICAL)


def record_error(error: BaseException) -> Path | None:
    """Make sure that the traceback of an error of a library is in a log file.

    Args:
        error: The error with which the command ends.

    Returns:
        The log file; None for a `UserError`, whose message is complete, or if no file can be written.
    """
    if isinstance(error, UserError):
        return None
    if _failed_files:
        return _failed_files[-1]
    with suppress(OSError):
        _ERROR_FILE.parent.mkdir(parents=True, exist_ok=True)
        _ERROR_FILE.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
        return _ERROR_FILE
    return None


@contextmanager
def log_to_warehouse(settings: Settings, command: str) -> Iterator[Path | None]:
    """Write all log messages inside the block to a new file in the folder `run_logs` of the warehouse.

    Keeps the newest 500 files. A warehouse in an object store gets no log files.

    Args:
        settings: The settings with the warehouse.
        command: The name of the command, which becomes part of the file name.

    Yields:
        The path of the file; None if the warehouse does not exist or is in an object store, or if the file cannot be
        written.
    """
    handler = _open_file(settings, command)
    if handler is None:
        yield None
        return
    _logger.setLevel(logging.DEBUG)
    _logger.addHandler(handler)
    try:
        _logger.debug("command: %s", format_command(sys.argv))
        _logger.debug("settings: %s", json.dumps(dump_redacted(settings), ensure_ascii=False))
        yield Path(handler.baseFilename)
        _logger.debug("%s finished", command)
    except BaseException:
        # Only to the file: the terminal shows errors that a user can fix as one sentence.
        record = _logger.makeRecord(_logger.name, logging.ERROR, __file__, 0, "%s failed", (command,), sys.exc_info())
        handler.handle(record)
        _failed_files.append(Path(handler.baseFilename))
        raise
    finally:
        _logger.removeHandler(handler)
        # A full disk must not replace the result or the error of the command.
        with suppress(OSError):
            handler.close()


def _open_file(settings: Settings, command: str) -> logging.FileHandler | None:
    root = Warehouse(settings.paths).root
    if "://" in root or not Path(root).is_dir():  # a mistyped path must not create a warehouse
        return None
    folder = Path(root) / "run_logs"
    now = dt.datetime.now(dt.UTC)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(folder / f"{now:%Y%m%dT%H%M%S.%fZ}-{command}-{os.getpid()}.log", encoding="utf-8")
    except OSError as error:
        _logger.warning("%s: cannot write a log file: %s", folder, error)
        return None
    handler.handleError = lambda record: None  # type: ignore[method-assign]  # the log is not worth failing a command
    # Delete only files that this module wrote.
    with suppress(OSError):
        for old in sorted(f for f in folder.iterdir() if _FILE_NAME.fullmatch(f.name))[:-_MAX_FILES]:
            old.unlink(missing_ok=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    return handler
