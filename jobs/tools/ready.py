"""Ready: check whether the logs of a day have arrived, from file names only and without Spark.

This is for schedulers that poll every few minutes. `check` also reads rows, and starts Spark to do so.
"""

from __future__ import annotations

from typing import Any

import fsspec

from star_ctr.conf.errors import UserError
from star_ctr.conf.settings.root import Settings
from star_ctr.jobs.io.log_files import format_glob, has_day_in_path, list_patterns, list_readable_files, make_glob


def run(settings: Settings, ds: str) -> list[dict[str, Any]]:
    """Count the files of each declared log for a day.

    A folder counts if it contains a file that Spark would read. Spark ignores files and folders whose names begin with
    `_` or `.`.

    Args:
        settings: The data set.
        ds: The day. It is ignored for logs that have no day in their path: all their files count.

    Returns:
        One entry per log: log, files (their number) and path (the glob that was searched).

    Raises:
        UserError: The protocol of a path is not supported.
        OSError: The storage does not respond.
    """
    found = []
    for name, log in settings.logs.get_declared().items():
        glob = make_glob(settings, log)
        path = format_glob(glob, ds) if has_day_in_path(log) else glob
        try:
            files = sum(_count_files(format_glob(pattern, ds)) for pattern in list_patterns(settings, log))
        except (ValueError, ImportError) as error:
            raise UserError(f"logs.{name}.path: {path} cannot be listed: {error}") from None
        found.append({"log": name, "files": files, "path": path})
    return found


def _count_files(glob: str) -> int:
    """Count the files, and the folders with readable files, that match a glob."""
    fs, path = fsspec.core.url_to_fs(glob)
    fs.invalidate_cache()  # fsspec may have cached an earlier listing
    return sum(any(True for _ in list_readable_files(fs, found)) for found in fs.glob(path))
