"""Processor time of process trees (Linux only): it depends less on other work on the machine than wall time."""

from __future__ import annotations

import os
from pathlib import Path


def read_tree_seconds(root: int | None = None) -> float:
    """Return the processor seconds of a process and all its descendants so far, with those that have ended.

    A descendant that has ended counts once its parent has waited for it.

    Args:
        root: The process; the current one by default.
    """
    root = root or os.getpid()
    parents, ticks = {}, {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # the process has just ended
            continue
        pid = int(stat.parent.name)
        # See proc_pid_stat(5): the process's own time, then that of its children that have ended.
        parents[pid], ticks[pid] = int(fields[1]), sum(map(int, fields[11:15]))
    found = {root}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return sum(ticks.get(pid, 0) for pid in found) / os.sysconf("SC_CLK_TCK")
