"""What the models cost: a step of the trainer with its optimizer, and a prediction, on the CPU.

Shapes: 19 domains (and 200), batches of 2000 rows of one domain, seven layers, twenty embeddings of width 16 out of 100,000
rows each, a pooled sequence of 20 and thirty numbers. Models take turns step by step, so that a machine that changes its
pace slows all of them; a ratio is of medians.

    python bench/cost.py [--rounds 30]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from deltalake import DeltaTable, write_deltalake
from entries import entry

from star_ctr.conf.contracts.encoded_row import IdField, Layout, NumericField, NumericSource, SequenceField
from star_ctr.conf.settings.model import ModelSettings
from star_ctr.conf.settings.trainer import TrainerSettings
from star_ctr.features.encoding.row_encoder import pack_rows
from star_ctr.model.cost import time_in_turns
from star_ctr.model.data.batches import Batch
from star_ctr.model.data.reader import Rows
from star_ctr.model.export import Predictor, export
from star_ctr.model.training.job import TrainingJob
from star_ctr.model.training.trainer import Trainer

ROWS, VOCABULARY, FIELDS, LENGTH, NUMBERS = 2000, 100_000, 20, 20, 30
MODELS = {
    "base": {"name": "base", "norm": "bn"},
    "star": {"name": "star", "norm": "pn"},
    "shared_bottom": {"name": "shared_bottom", "norm": "pn"},
    "mmoe": {"name": "mmoe", "norm": "pn"},
    "cross_stitch": {"name": "cross_stitch", "norm": "pn"},
}


def layout_of(domains: int) -> Layout:
    """The layout of the shapes above."""
    fields = [IdField(name=f"f{i}", column=f"f{i}", embedding=f"f{i}") for i in range(FIELDS)]
    return Layout(
        ds="2026-01-02", domains=[f"d{p}" for p in range(1, domains + 1)],
        embeddings={f.name: VOCABULARY for f in fields}, categorical=fields, buckets=[],
        numeric=[NumericField(name=f"n{i}", source=NumericSource(column=f"n{i}")) for i in range(NUMBERS)],
        sequences=[SequenceField(name="seen", length=LENGTH, sides=fields[:1])],
    )  # fmt: skip


def rows_of(layout: Layout, domain: int, n: int, seed: int) -> Rows:
    """Random rows of one domain."""
    rng = np.random.default_rng(seed)
    ints = rng.integers(2, VOCABULARY, (n, layout.ints)).astype(np.int32)
    ints[:, FIELDS] = LENGTH
    floats = rng.normal(size=(n, NUMBERS)).astype(np.float32)
    label = (rng.random(n) < 0.1).astype(np.float32)
    return Rows(ints, floats, label, np.full(n, domain, dtype=np.int32))


def trainer_of(folder: Path, name: str, domains: int) -> Trainer:
    """A trainer of one of MODELS, on a split of one row a domain (its batches are made here)."""
    layout = layout_of(domains)
    table = str(folder / f"split-{domains}")
    if not DeltaTable.is_deltatable(table):
        rows = rows_of(layout, 1, domains, 0)
        columns = {
            "impression_id": [f"i{p}" for p in range(domains)], "user_id": ["u"] * domains,
            "day": ["2026-01-01"] * domains, "label": rows.label, "domain_id": np.arange(1, domains + 1, dtype=np.int32),
            "ints": pack_rows(rows.ints), "floats": pack_rows(rows.floats), "ds": [layout.ds] * domains,
            "part": ["train"] * domains, "domain": layout.domains,
        }  # fmt: skip
        write_deltalake(table, pa.table(columns), partition_by=["ds", "part", "domain"])
    job = TrainingJob(
        run_id=name, ds=layout.ds, split=table, versions={"split": 0}, folder=str(folder / f"{name}-{domains}"), code="",
        layout=layout, model=ModelSettings.model_validate(MODELS[name]), trainer=TrainerSettings(device="cpu"), settings={},
    )  # fmt: skip
    return Trainer(job)


def run(rounds: int = 30) -> list[dict[str, Any]]:
    """The three ratios with a goal, and what all models cost, as entries of bench.json."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        trainers = {m: trainer_of(folder, m, 19) for m in MODELS} | {"star of 200": trainer_of(folder, "star", 200)}
        batches = {p: Batch(p, rows_of(layout_of(19), p, ROWS, p), np.zeros(ROWS, dtype=np.int32)) for p in range(1, 8)}
        steps = time_in_turns(
            {m: lambda k, t=t: t.train_step([batches[1 + k % 7]]) for m, t in trainers.items()}, rounds
        )
        predictors = {}
        for m in MODELS:
            trainer = trainers[m]
            export(trainer.model.eval(), trainer.job.model, trainer.job.layout, trainer.job.path)
            predictors[m] = Predictor(trainer.job.path)
        predictions = time_in_turns(
            {
                m: lambda k, p=p: p.predict(
                    *(getattr(batches[1 + k % 7].rows, c) for c in ("ints", "floats", "domain"))
                )
                for m, p in predictors.items()
            },
            rounds,
        )
    told = ", ".join(f"{m} {steps[m] / steps['base']:.2f}" for m in steps)
    told_p = ", ".join(f"{m} {predictions[m] / predictions['base']:.2f}" for m in predictions)

    return [
        entry("star_step_vs_base", steps["star"] / steps["base"], "times as long", 1.25,
              f"a step of 2000 rows, 19 domains; Base {steps['base']:.0f} ms; of Base: {told}"),
        entry("star_step_200_vs_19_domains", steps["star of 200"] / steps["star"], "times as long", 1.2,
              f"a step of STAR of 19 domains {steps['star']:.0f} ms"),
        entry("star_predict_vs_shared_bottom", predictions["star"] / predictions["shared_bottom"], "times as long", 1.1,
              f"2000 rows; Shared Bottom {predictions['shared_bottom']:.1f} ms; of Base: {told_p}"),
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    for result in run(parser.parse_args().rounds):
        print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
