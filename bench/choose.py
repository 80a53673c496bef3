"""Choose settings on nights that no result is told of: variants x nights x seeds, without Spark.

Trains on the splits that `star-ctr split` wrote, scores the test rows in this process, and prints mean AUC and
GAUC of every variant (a set of overrides of `model.*` and `trainer.*`), with the difference to the first, and
PCOC of the five largest domains. KuaiRand's nights for it are 04-29 and 04-30.

    python bench/choose.py --conf conf/kuairand.yaml --variant "" --variant "trainer.lr=0.002"
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from star_ctr.conf.identity import run_id
from star_ctr.conf.layout import Layout
from star_ctr.conf.load import load
from star_ctr.conf.settings import Settings
from star_ctr.conf.tables import Warehouse
from star_ctr.jobs.commits import split_commit
from star_ctr.model.job import TrainingJob
from star_ctr.model.offline import SCORES, train_and_score

NIGHTS = ("2022-04-29", "2022-04-30")


def gauc(frame: pd.DataFrame) -> float:
    """Eq. 9 by ranks."""
    f = frame.assign(rank=frame.groupby("user_id")["score"].rank())
    g = (
        f.assign(pos_rank=f["rank"] * f["label"])
        .groupby("user_id")
        .agg(n=("label", "size"), pos=("label", "sum"), ranks=("pos_rank", "sum"))
    )
    g = g[(g["pos"] > 0) & (g["pos"] < g["n"])]
    auc = (g["ranks"] - g["pos"] * (g["pos"] + 1) / 2) / (g["pos"] * (g["n"] - g["pos"]))
    return float((auc * g["n"]).sum() / g["n"].sum())


def one(settings: Settings, night: str, folder: Path) -> pd.DataFrame:
    """Train one night and score its test rows."""
    table = Warehouse(settings.paths).table("split")
    version, metadata = split_commit(table, night)
    job = TrainingJob(
        run_id=run_id(settings, night), ds=night, split=table, versions={"split": version}, folder=str(folder),
        code="", layout=Layout.model_validate(metadata["layout"]), model=settings.model, trainer=settings.trainer,
        settings={},
    )  # fmt: skip
    train_and_score(job)
    return pd.read_parquet(folder / SCORES)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--conf", default="conf/kuairand.yaml")
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    parser.add_argument("--variant", action="append", default=[], help="overrides, separated by blanks; empty: none")
    parser.add_argument("--nights", nargs="+", default=list(NIGHTS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", default="build/choose.json")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    results = []
    for variant in arguments.variant or [""]:
        began = time.monotonic()
        scored = []
        values = []
        for night in arguments.nights:
            for seed in range(arguments.seeds):
                settings = load(arguments.conf, [*arguments.overrides, *variant.split(), f"trainer.seed={seed}"])
                with tempfile.TemporaryDirectory() as folder:
                    frame = one(settings, night, Path(folder))
                scored.append(frame)
                values.append((roc_auc_score(frame["label"], frame["score"]), gauc(frame)))
        domains = pd.concat(scored).groupby("domain")
        large = sorted(domains.size().nlargest(5).index)
        both = domains[["score", "label"]].sum()
        pcoc = {d: float(both.loc[d, "score"] / both.loc[d, "label"]) for d in large}
        if not results:
            print(f"{'auc':>8} {'gauc':>8} {'Δauc':>8} {'Δgauc':>8} {'s':>5}  pcoc {' '.join(large)}  variant")
        auc, user_auc = np.mean(values, axis=0)
        results.append({"variant": variant, "auc": auc, "gauc": user_auc, "pcoc": pcoc, "runs": values})
        first = results[0]
        seconds = (time.monotonic() - began) / len(values)
        print(
            f"{auc:8.4f} {user_auc:8.4f} {auc - first['auc']:+8.4f} {user_auc - first['gauc']:+8.4f} {seconds:5.1f}  "
            f"{' '.join(f'{v:.2f}' for v in pcoc.values())}  {variant or '(as it is)'}",
            flush=True,
        )
        Path(arguments.json).parent.mkdir(parents=True, exist_ok=True)
        Path(arguments.json).write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
