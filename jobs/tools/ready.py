"""Ready: whether the logs of a day have come, told by the names of their files alone, without Spark.

For schedulers, which ask every few minutes: `check` reads rows, and starts Spark for it.
"""

from __future__ import annotations

from typing import Any

import fsspec

from star_ctr.conf.errors import UserError
from star_ctr.conf.settings.root import Settings
from star_ctr.jobs.io.log_files import format_glob, has_day_in_path, list_readable_files, make_glob


def run(settings: Settings, ds: str) -> list[dict[str, Any]]:
    """One entry a log: `log`, `files` (how many of the day `ds` are there) and the `path` that was looked for.

    A log whose path names no day counts with all its files. A folder counts if it holds a file that Spark would
    read; what begins with `_` or `.` is not read. `UserError` for a path of an unknown kind; `OSError` where the
    store does not answer.
    """
    found = []
    for name, log in settings.logs.declared().items():
        glob = make_glob(settings, log)
        path = format_glob(glob, ds) if has_day_in_path(log) else glob
        try:
            files = _list_files(path)
        except (ValueError, ImportError) as error:
            raise UserError(f"logs.{name}.path: {path} cannot be looked up: {error}") from None
        found.append({"log": name, "files": files, "path": path})
    return found


def _list_files(glob: str) -> int:
    fs, path = fsspec.core.url_to_fs(glob)
    fs.invalidate_cache()
    return sum(any(True for _ in list_readable_files(fs, found)) for found in fs.glob(path))
