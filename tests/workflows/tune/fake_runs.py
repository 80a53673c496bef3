"""A search without training: the metrics of a run are a function of its settings, night and seed."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from star_ctr.conf.contracts.fingerprint import hash_json
from star_ctr.conf.errors import DataError
from star_ctr.conf.load import load
from star_ctr.workflows.tune.nights import Nights, Prepared
from star_ctr.workflows.tune.run import Options, TuneResult, run
from star_ctr.workflows.tune.runs import Run, RunMetrics

NIGHTS = Nights("2026-03-05", ["2026-03-02", "2026-03-03"], "2026-03-04")
DROPOUT, EPOCHS = "model.dropout", "trainer.epochs"
SPACE = {DROPOUT: {"values": [0.1, 0.2, 0.3]}, EPOCHS: {"values": [2, 3]}}


@dataclass(frozen=True)
class FakeRunner:
    """GAUC is 0.6 for the current settings, plus the gain of each changed value, plus noise.

    Attributes:
        calls: A file to which each run is appended.
        gains: The gain by changed value, as JSON of `[key, value]`.
        noise: The standard deviation of the noise of a run.
        auc_losses: The loss of AUC by changed value.
        failing: Values for which training fails.
        kill_after: Kill the process when this number of runs are in the file.
        user_noise: How much the scores of the search nights differ between runs; on the unseen night, they are random.
    """

    calls: Path
    gains: dict[str, float] = field(default_factory=dict)
    noise: float = 0.0
    auc_losses: dict[str, float] = field(default_factory=dict)
    failing: tuple[str, ...] = ()
    kill_after: int | None = None
    user_noise: float = 0.0

    def __call__(self, run: Run, scores: Path | None) -> RunMetrics:
        done = len(list_calls(self.calls))
        if self.kill_after is not None and done >= self.kill_after:
            os.kill(os.getpid(), signal.SIGKILL)
        names = [json.dumps([key, value]) for key, value in run.values.items()]
        with self.calls.open("a") as file:
            file.write(json.dumps([dict(run.values), *run.pair]) + "\n")
        if set(names) & set(self.failing):
            raise DataError("the loss is not finite")
        source = np.random.default_rng(int(hash_json([run.values, run.pair]), 16))
        gauc = 0.6 + sum(self.gains.get(name, 0.0) for name in names) + self.noise * source.normal()
        auc = 0.7 - sum(self.auc_losses.get(name, 0.0) for name in names)
        if scores:
            users = [f"u{k}" for k in range(50) for _ in range(4)]
            share = 1.0 if run.pair.night == NIGHTS.unseen else self.user_noise
            score = (1 - share) * np.tile([0.2, 0.8], 100) + share * source.random(200)
            rows = {"user_id": users, "label": [0.0, 1.0] * 100, "score": score}
            pq.write_table(pa.table(rows), scores)
        return RunMetrics(auc, gauc, 0.3, 100.0, 100.0, 0.01)


def name(key: str, value: object) -> str:
    """Return the name of a changed value for `FakeRunner`."""
    return json.dumps([key, value])


def list_calls(file: Path) -> list[tuple[dict[str, object], str, int]]:
    """Return the runs of a `FakeRunner`: values, night and seed."""
    if not file.exists():
        return []
    return [tuple(json.loads(line)) for line in file.read_text().splitlines()]


def prepare(folder: Path, overrides: Sequence[str] = (), space: object = SPACE) -> Prepared:
    """Return the inputs of a search whose study is below `folder`."""
    tune = {"space": space, "only": True}
    settings = load("demo", [f"paths.warehouse={folder / 'warehouse'}", f"tune={json.dumps(tune)}", *overrides])
    return Prepared(settings, NIGHTS, {})


def search(folder: Path, runner: FakeRunner, trials: int = 12, overrides: Sequence[str] = ()) -> TuneResult:
    """Run a search with one thread, because starting a process takes seconds."""
    return run(prepare(folder, overrides), Options(trials=trials, jobs=1, seeds=4), runner, ThreadPoolExecutor)


if __name__ == "__main__":
    root, limit = Path(sys.argv[1]), int(sys.argv[2])
    gains = {name(DROPOUT, 0.2): 0.01}
    search(root, FakeRunner(root / "calls", gains, noise=0.001, kill_after=limit or None))
