"""Benchmark: how learning a further outcome changes the predictions of the label, on nights of real logs.

Trains STAR with the further outcome `long_view` (`label.also`) and without it, for each night and seed.
Prints the paired differences in the metrics of the label over nights and seeds, with 95% intervals of Student's t. Then
prints the metrics of ensembles, which are the mean score of all seeds of a model, and of all models.

    STAR_CTR_DATA=data python bench/further_outcome.py --nights 2022-05-03,2022-05-04,2022-05-05 --seeds 3

Finished training runs are kept in `--folder`, so the benchmark can be stopped and run again.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
from pathlib import Path

import pandas as pd
import yaml
from scipy.stats import t

from star_ctr.features.evaluation.array_metrics import compute_array_metrics
from star_ctr.jobs.io.delta_rows import read_rows

METRICS = ("auc", "gauc", "pcoc", "log_loss")


def write_settings(folder: Path, conf: str, outcome: str, factors: list[float]) -> Path:
    """Write settings with the outcome and one model per weight of its loss."""
    models = {f"outcome_{factor:g}": {"model.name": "star", "trainer.outcome_weight": factor} for factor in factors}
    settings = {
        "extends": conf,
        "paths": {"warehouse": str(folder / "warehouse")},
        "label": {"also": {outcome: 1.0}},
        "compare": {"plans": [{"models": list(models)}], "models": models},
    }
    file = folder / "further_outcome.yaml"
    file.write_text(yaml.safe_dump(settings, sort_keys=False))
    return file


def print_differences(metrics: pd.DataFrame, factors: list[float]) -> None:
    """Print the metrics of each model, and their paired differences from the model without the outcome."""
    rows = metrics[metrics["domain"] == "overall"].set_index(["compared", "ds", "seed"])[list(METRICS)]
    alone = rows.loc["outcome_0"]
    print(f"{'weight':>8}  {'pairs':>5}  " + "  ".join(f"{name:>26}" for name in METRICS))
    print(f"{0:>8}  {len(alone):>5}  " + "  ".join(f"{alone[name].mean():>26.4f}" for name in METRICS))
    for factor in factors:
        if not factor:
            continue
        paired = (rows.loc[f"outcome_{factor:g}"] - alone).dropna()
        texts = []
        for name in METRICS:
            margin = t.isf(0.025, len(paired) - 1) * paired[name].std() / math.sqrt(len(paired))
            texts.append(f"{paired[name].mean():>+14.5f} ± {margin:.5f}".rjust(26))
        print(f"{factor:>8g}  {len(paired):>5}  " + "  ".join(texts))


def print_ensembles(folder: Path, metrics: pd.DataFrame) -> None:
    """Print AUC and GAUC of the mean score of all seeds of each model, and of all models, as means over the nights."""
    runs = metrics[metrics["domain"] == "overall"].set_index("run_id")["compared"]
    columns = ("run_id", "ds", "impression_id", "user_id", "label", "score")
    scores = pd.DataFrame(read_rows(str(folder / "warehouse/scores"), columns=columns))
    scores = scores[scores["run_id"].isin(runs.index)].assign(compared=lambda rows: rows["run_id"].map(runs))
    for name, rows in (*scores.groupby("compared"), ("all", scores)):
        means = rows.groupby(["ds", "impression_id", "user_id", "label"], as_index=False)["score"].mean()
        found = [
            compute_array_metrics(r["user_id"].to_numpy(), r["label"].to_numpy(float), r["score"].to_numpy())
            for _, r in means.groupby("ds")
        ]
        models = rows["run_id"].nunique() // rows["ds"].nunique()
        auc, gauc = (pd.Series([getattr(f, metric) for f in found]).mean() for metric in ("auc", "gauc"))
        print(f"{name}: ensemble of {models} models per night: AUC {auc:.4f}, GAUC {gauc:.4f}")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--conf", default="kuairand", help="YAML file, or the name of one that is part of star-ctr")
    parser.add_argument("--outcome", default="long_view", help="column of the impression log")
    parser.add_argument("--factors", default="0,0.3", help="weights of the outcome; the first must be 0")
    parser.add_argument("--nights", default="2022-05-03,2022-05-04,2022-05-05")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path("build/further_outcome"))
    options = parser.parse_args()
    factors, folder = [float(factor) for factor in options.factors.split(",")], options.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    conf = write_settings(folder, options.conf, options.outcome, factors)
    models = ",".join(f"outcome_{factor:g}" for factor in factors)
    command = [sys.executable, "-m", "star_ctr.workflows.cli", "compare", "--conf", str(conf), "--out", str(folder)]
    command += ["--models", models, "--nights", options.nights, "--seeds", str(options.seeds)]
    subprocess.run([*command, "--jobs", str(options.jobs)], check=True)
    metrics = pd.read_csv(folder / "metrics.csv")
    print_differences(metrics, factors)
    print_ensembles(folder, metrics)


if __name__ == "__main__":
    main()
