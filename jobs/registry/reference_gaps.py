"""Read the gaps between nights and their references: metrics of a night's run minus those of its reference.

Gaps are rows of the table `differences`. They are read without Spark.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from star_ctr.conf.contracts.catalog import Warehouse
from star_ctr.conf.contracts.run_id import make_reference_run_id
from star_ctr.conf.settings.root import Settings
from star_ctr.jobs.io.delta_rows import make_any_condition, read_rows

ATTEMPT, REFERENCE_ATTEMPT, TRAINING_DAYS = "attempt", "reference_attempt", "training_days"
"""Columns of the comparison with a reference: both attempts, and the number of training days of the reference."""
NOT_COMPARABLE = "PCOC and log loss are not comparable: only one of the two models was calibrated on earlier scores"
"""Note on a gap whose run is returned by `find_incomparable_runs`."""
Row = Mapping[str, Any]


def read_gaps(settings: Settings, attempts: Mapping[str, int | None]) -> list[dict[str, Any]]:
    """Read the gaps of runs.

    Args:
        settings: The settings, with the warehouse.
        attempts: The evaluated attempt of each run, by run id. Gaps of other attempts are left out.

    Returns:
        Rows of `differences`, one per run and domain, in the order of nights. Runs without a reference have none.
    """
    table = Warehouse(settings.paths).table("differences")
    rows = read_rows(table, make_any_condition("run_id", sorted(attempts))) if attempts else []
    found = [
        row
        for row in rows
        if row["reference_run_id"] == make_reference_run_id(row["run_id"]) and row[ATTEMPT] == attempts[row["run_id"]]
    ]
    return sorted(found, key=lambda row: row["ds"])


def find_incomparable_runs(settings: Settings, gaps: Sequence[Row]) -> set[str]:
    """Return the runs of which only the run or only the reference was calibrated on earlier scores.

    Their gaps in PCOC and log loss mainly show this difference. The first references have no earlier scores.

    Args:
        settings: The settings, with the warehouse.
        gaps: The gaps. Those whose training records no longer exist are left out.
    """
    pairs = {((gap["run_id"], gap[ATTEMPT]), (gap["reference_run_id"], gap[REFERENCE_ATTEMPT])) for gap in gaps}
    names = sorted({run_id for pair in pairs for run_id, _ in pair})
    table = Warehouse(settings.paths).table("runs")
    rows = read_rows(table, make_any_condition("run_id", names), ["run_id", "attempt", "record"]) if names else []
    records = {(row["run_id"], row["attempt"]): json.loads(row["record"]) for row in rows}
    # Records of earlier versions do not have the key, so it is not known whether the model was calibrated.
    maps = {key: record["calibration_maps"] for key, record in records.items() if "calibration_maps" in record}
    known = [pair for pair in pairs if all(key in maps for key in pair)]
    return {night[0] for night, reference in known if bool(maps[night]) != bool(maps[reference])}


def describe_reference(gap: Row) -> str:
    """Describe the reference: how it was trained, and on how many days."""
    days = gap[TRAINING_DAYS]
    return f"a model trained from scratch on {days} {'day' if days == 1 else 'days'}"


def describe_gap(gap: Row, has_same_calibration: bool = True) -> str:
    """Describe a gap in one line: the differences in all metrics, and the interval of GAUC.

    Args:
        gap: A row of `read_gaps`.
        has_same_calibration: False if `find_incomparable_runs` returns the run.

    Returns:
        The description, with a note if PCOC and log loss are not comparable.
    """
    values = {"GAUC": "gauc", "AUC": "auc", "PCOC": "pcoc", "log loss": "log_loss"}
    parts = [
        f"{name} {gap[key]:+.4f}{_format_interval(gap, key)}" for name, key in values.items() if gap[key] is not None
    ]
    note = "" if has_same_calibration else f". {NOT_COMPARABLE}"
    return f"{', '.join(parts)} compared with {describe_reference(gap)}{note}"


def _format_interval(gap: Row, key: str) -> str:
    low, high = gap[f"{key}_low"], gap[f"{key}_high"]
    return f" ({low:+.4f} to {high:+.4f})" if key == "gauc" and low is not None and high is not None else ""


def is_worse(gap: Row, margin: float) -> bool:
    """Return whether GAUC is below that of the reference by more than a margin, and its interval does not contain 0."""
    gauc, high = gap["gauc"], gap["gauc_high"]
    return gauc is not None and high is not None and high < 0 and gauc < -margin
