"""A warehouse whose tables are generated without running nights, for tests of reports and other readers."""

from __future__ import annotations

import datetime as dt
import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from deltalake import write_deltalake

from star_ctr.conf.contracts.catalog import SHARED_RUN_ID, TABLES
from star_ctr.conf.contracts.domains import OVERALL
from star_ctr.conf.contracts.pipeline import list_steps
from star_ctr.conf.contracts.run_id import format_variant, make_reference_run_id, make_run_id
from star_ctr.conf.load import load
from star_ctr.conf.settings.root import Settings
from star_ctr.jobs.registry.decisions import Decision, Decisions, Outcome, find_serving
from star_ctr.workflows.journal import Entry, Journal
from star_ctr.workflows.staleness import Staleness

DOMAINS = ("home", "search", "banner", "<script>alert('x')</script>", "a domain whose name goes on & on & on")
NIGHTS = tuple(f"2026-01-0{day}" for day in range(4, 9))
SECONDS = {
    "ingest": 22.0, "features": 41.0, "split": 18.0, "train": 96.0, "score": 12.0, "evaluate": 6.0, "gate": 21.0
}  # fmt: skip


@dataclass
class SyntheticNights:
    """Writes tables in `folder` as nights would; all numbers are drawn from one seed."""

    folder: Path
    domains: Sequence[str] = DOMAINS
    intervals: bool = True
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def __post_init__(self) -> None:
        self.settings: Settings = load("demo", [f"paths.warehouse={self.folder}"])
        self.entries: list[Entry] = []
        self._clock = itertools.count()

    def run(self, ds: str) -> str:
        return make_run_id(self.settings, ds)

    def write(self, table: str, rows: Iterable[dict[str, Any]]) -> None:
        """Append rows to a table, with its partitions."""
        partitions = list(TABLES[table].partitions) if table in TABLES else ["run_id"]
        write_deltalake(
            str(self.folder / table), pa.Table.from_pylist(list(rows)), mode="append", partition_by=partitions or None
        )

    def metrics(self, ds: str, name: str | None = None, **more: Any) -> list[dict[str, Any]]:
        """Write metrics of every domain and overall, and return the rows. Later domains have fewer rows."""
        rows = []
        for k, domain in enumerate([*self.domains, OVERALL]):
            n = (
                sum(r["rows"] for r in rows)
                if domain == OVERALL
                else int(24_000 / (k + 1) ** 1.3) + int(self.rng.integers(0, 300))
            )
            gauc = 0.63 + 0.004 * self.rng.standard_normal() - 0.004 * k * (domain != OVERALL)
            pcoc = float(np.exp(self.rng.normal(0, 0.02 + 0.02 * k * (domain != OVERALL))))
            row = {
                "run_id": name or self.run(ds), "attempt": 1, "ds": ds, "model": format_variant(self.settings), "seed": 0, "domain": domain, "rows": n,
                "users": n // 7, "clicks": max(n // 25, 1), "auc": gauc + 0.11, "gauc": gauc, "pcoc": pcoc, "log_loss": 0.15 + 0.01 * self.rng.random(), "ece": 0.002 + 0.001 * self.rng.random(),
                "reliability": [{"lower": v, "rows": n // 3, "clicks": int(n // 3 * v * 1.2), "score": 1.2 * v} for v in (0.01, 0.05, 0.2)],
            }  # fmt: skip
            if self.intervals:
                width = 0.9 / np.sqrt(n)
                row |= {
                    f"{m}_{end}": row[m] + s * width for m in ("auc", "gauc") for end, s in (("low", -1), ("high", 1))
                }
            rows.append(row | more)
        self.write("metrics", rows)
        return rows

    def differences(self, ds: str, against: str) -> None:
        self.write(
            "differences",
            (
                {"run_id": self.run(ds), "reference_run_id": f"{against}@{ds}", "ds": ds, "domain": domain}
                | {"auc": d, "auc_low": d - w, "auc_high": d + w, "gauc": d, "gauc_low": d - w, "gauc_high": d + w}
                for k, domain in enumerate([*self.domains, OVERALL])
                for w in [0.002 + 0.001 * k * (domain != OVERALL)]
                for d in [0.003 + 0.8 * w * self.rng.standard_normal()]
            ),
        )

    def gap(self, ds: str, gauc: float, high: float) -> None:
        """Write the difference of a night from its reference, whose interval is symmetric."""
        name, low = self.run(ds), 2 * gauc - high
        row: dict[str, Any] = {"run_id": name, "reference_run_id": make_reference_run_id(name), "ds": ds}
        row |= {"domain": OVERALL, "attempt": 1, "reference_attempt": 1, "training_days": 7}
        for metric in ("gauc", "auc", "pcoc", "log_loss"):
            row |= {metric: gauc, f"{metric}_low": low, f"{metric}_high": high}
        path = str(self.folder / "differences")
        write_deltalake(path, pa.Table.from_pylist([row]), mode="append", schema_mode="merge", partition_by=["run_id"])

    def ledger(self, ds: str) -> None:
        """Write the ledger of a night, in which duplicates, rows without a user and late clicks are left out."""
        rows = []
        for k, domain in enumerate(self.domains):
            n = int(24_000 / (k + 1) ** 1.3)
            rows += [(SHARED_RUN_ID, ds, domain, step, n, n, "") for step in ("ingest", "features", "split.test")]
            rows += [
                (SHARED_RUN_ID, ds, domain, "ingest", 20 + k, 0, "duplicate"),
                (SHARED_RUN_ID, ds, domain, "ingest", 3, 0, "no user"),
            ]
            rows += [
                (SHARED_RUN_ID, ds, domain, "attribute", n // 25, n // 25, ""),
                (SHARED_RUN_ID, ds, domain, "attribute", 9, 0, "click after the attribution window"),
            ]
            rows += [
                (SHARED_RUN_ID, ds, domain, "split.train", 7 * n, 7 * n, ""),
                (self.run(ds), ds, domain, "train", 7 * n, 7 * n, ""),
            ]
            rows += [(self.run(ds), ds, domain, step, n, n, "") for step in ("score", "evaluate")]
        rows += [
            (SHARED_RUN_ID, "unknown", "unknown", "ingest", 5 * (ds == NIGHTS[-1]), 0, "time cannot be read"),
            (SHARED_RUN_ID, ds, "all", "ingest.clicks", 3000, 3000, ""),
        ]
        columns = ("run_id", "ds", "domain", "step", "rows_in", "rows_out", "reason")
        self.write("ledger", (dict(zip(columns, row, strict=True)) for row in rows))

    def record(self, ds: str, start: str | None = None) -> None:
        losses = 0.14 + 0.18 * np.exp(-np.arange(100) / 3) + 0.004 * self.rng.standard_normal(100)
        record = {
            "run_id": self.run(ds), "ds": ds, "seed": 0, "versions": {"split": 7, "vocabularies": 7}, "code": "2025f21f9507d035",
            "settings": self.settings.model_dump(mode="json"), "processes": 1, "threads": 1, "device": "cpu", "torch": "2.12.1", "parameters": 681_299,
            "steps": 3500, "resumed": False, "start": start and {"run_id": start, "optimizer": "kept"}, "seconds": 81.2, "rows_per_second": 12_073.8,
            "waiting_share": 0.0369, "shuffle_quality": 0.93, "rows": dict.fromkeys(self.domains, 10_000), "curve": [[35 * (k + 1), round(float(v), 6)] for k, v in enumerate(losses)],
        }  # fmt: skip
        self.write(
            "runs",
            [
                {
                    "run_id": self.run(ds),
                    "attempt": 1,
                    "ds": ds,
                    "model": format_variant(self.settings),
                    "seed": 0,
                    "rows": 10_000 * len(self.domains),
                    "seconds": 81.2,
                    "max_score_difference": 1.2e-7,
                    "record": json.dumps(record),
                }
            ],
        )

    def step(self, ds: str, step: str, state: str = "done", error: str = "") -> None:
        """Add an entry to the journal, with the inputs that the step would have now."""
        staleness = Staleness(self.settings, self.entries, busy=True, decisions=Decisions(self.settings).read_all())
        at = dt.datetime(2026, 1, 9, tzinfo=dt.UTC) + dt.timedelta(minutes=next(self._clock))
        seconds = SECONDS[step] * float(self.rng.uniform(0.85, 1.3)) if state != "running" else None
        entry = Entry(
            ds,
            step,
            staleness.get_run_id(ds, step),
            state,
            at,
            seconds,
            error=error,
            inputs=staleness.hash_inputs(ds, step),
        )
        self.entries.append(entry)
        Journal(self.settings).add(entry)

    def decide(self, ds: str, outcome: Outcome, reason: str, by: str = "gate") -> None:
        decisions = Decisions(self.settings)
        decided = decisions.read_all()
        now = find_serving(decided)
        against = now.model if now else ("", None)
        decisions.add(Decision(ds, self.run(ds), 1, *against, outcome, reason, by), decided)

    def nights(self, nights: Sequence[str] = NIGHTS) -> None:
        """Write complete nights with decisions of the gate: the first and the last are promoted, the others are held."""
        for ds in nights:
            now = find_serving(Decisions(self.settings).read_all())
            self.metrics(ds)
            self.ledger(ds)
            self.record(ds)
            if now is not None:
                self.metrics(ds, f"{now.run_id}@{ds}")
                self.differences(ds, now.run_id)
            promoted = ds in (nights[0], nights[-1])
            reason = "not worse than the serving model: overall GAUC +0.0031 (+0.0012 to +0.0050)"
            if now is None:
                reason = "no model is served yet, and the candidate passed all checks"
            if not promoted:
                reason = "domain search: GAUC -0.0121 (-0.0180 to -0.0061) against the serving model (margin: 0.01)"
            self.decide(ds, Outcome.PROMOTED if promoted else Outcome.HELD, reason)
            for step in list_steps(self.settings):
                self.step(ds, step)
