"""Clean: remove files that no version in use holds any more, but none that a recorded run or the serving model cites.

Every night leaves the files that it replaced. Delta's own VACUUM keeps by age alone, and a run that cites an old
version could then not be trained again; here the versions that runs cite are kept whole. Needs no Spark.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deltalake import DeltaTable

from star_ctr.conf.settings import Settings
from star_ctr.conf.tables import TABLES, Warehouse
from star_ctr.jobs.replay import recorded_job


def run(settings: Settings, days: float, dry_run: bool) -> list[dict[str, Any]]:
    """Clean all tables; returns, by table, the files removed, their bytes, and the versions kept for runs.

    `days`: how long a file stays after it was replaced, so that readers of the version before can finish.
    """
    warehouse = Warehouse(settings.paths)
    cited: dict[str, set[int]] = {}
    for versions in _cited(warehouse):
        for table, version in versions.items():
            cited.setdefault(table, set()).add(version)
    found = []
    for name in TABLES:
        place = warehouse.table(name)
        if not DeltaTable.is_deltatable(place):
            continue
        keep = sorted(cited.get(name, ()))
        sizes = {p: p.stat().st_size for p in Path(place).rglob("*.parquet")} if "://" not in place else {}
        removed = DeltaTable(place).vacuum(
            round(days * 24), dry_run=dry_run, enforce_retention_duration=False, keep_versions=keep, full=True
        )
        size = sum(sizes.get(Path(place) / file, 0) for file in removed)
        found.append({"table": name, "files": len(removed), "bytes": size, "versions kept for runs": len(keep)})
    return found


def _cited(warehouse: Warehouse) -> Iterator[dict[str, int]]:
    """The versions of tables that each recorded run is pinned to, whether or not it finished."""
    for path in sorted(Path(warehouse.models).glob("*/job.json")):
        job = recorded_job(path.parent)
        of = {"split": job.split, "vocabularies": job.vocabularies}
        yield {Path(of[name]).name: version for name, version in job.versions.items()}
