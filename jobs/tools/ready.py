"""Ready: check whether the logs of a day are complete, without Spark.

This is for schedulers that poll every few minutes. `check` also reads rows, and starts Spark to do so.
"""

from __future__ import annotations

from typing import Any

from star_ctr.conf.settings.root import Settings
from star_ctr.jobs.io.completeness import list_source_states


def run(settings: Settings, ds: str) -> list[dict[str, Any]]:
    """Check the sources of each declared log for a day.

    A folder counts if it contains a file that Spark would read. Spark ignores files and folders whose names begin with
    `_` or `.`.

    Args:
        settings: The data set.
        ds: The day. It is ignored for sources that have no day in their path: all their files count.

    Returns:
        One entry per source: log, files (their number), path (the glob that was searched), and missing (what the source
        lacks; empty if it is complete).
    """
    return [state._asdict() for state in list_source_states(settings, ds)]
