"""Compare variants of settings on nights that are not used for reported results.

A variant is a set of overrides of `model.*` and `trainer.*`. Each variant is trained for each night with each seed,
without Spark, on the splits that `star-ctr split` wrote, and scores the test rows. The script prints for each variant:

- the mean AUC and GAUC;
- the mean difference from the first variant, paired by night and seed, with its standard error;
- the mean training time in seconds;
- PCOC of all rows and of the five largest domains.

For KuaiRand, the nights are 2022-04-29 and 2022-04-30.

    python bench/choose.py --conf conf/kuairand.yaml --variant "" --variant "trainer.optimizer.lr=0.002"
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from star_ctr.conf.contracts.catalog import Warehouse
from star_ctr.conf.contracts.encoded_row import Layout
from star_ctr.conf.contracts.run_id import make_run_id
from star_ctr.conf.load import load
from star_ctr.conf.recipe import read_recipe
from star_ctr.conf.settings.root import Settings
from star_ctr.jobs.io.split_commits import read_split_commit
from star_ctr.model.offline import SCORES, train_and_score
from star_ctr.model.training.job import TrainingJob

NIGHTS = ("2022-04-29", "2022-04-30")
"""Default nights: the validation nights of KuaiRand."""


def compute_gauc(frame: pd.DataFrame) -> float:
    """Compute GAUC (eq. 9) from the ranks of each user's scores.

    Args:
        frame: Rows with `user_id`, `label` (0 or 1) and `score`.
    """
    f = frame.assign(rank=frame.groupby("user_id")["score"].rank())
    g = (
        f.assign(pos_rank=f["rank"] * f["label"])
        .groupby("user_id")
        .agg(n=("label", "size"), pos=("label", "sum"), ranks=("pos_rank", "sum"))
    )
    g = g[(g["pos"] > 0) & (g["pos"] < g["n"])]
    auc = (g["ranks"] - g["pos"] * (g["pos"] + 1) / 2) / (g["pos"] * (g["n"] - g["pos"]))
    return float((auc * g["n"]).sum() / g["n"].sum())


def score_night(settings: Settings, night: str, folder: Path) -> tuple[pd.DataFrame, float]:
    """Train for a night, and return the scores of its test rows and the training time in seconds."""
    table = Warehouse(settings.paths).table("split")
    version, metadata = read_split_commit(table, night)
    job = TrainingJob(
        run_id=make_run_id(settings, night), ds=night, split=table, versions={"split": version}, folder=str(folder),
        code="", layout=Layout.model_validate(metadata["layout"]), model=settings.model, trainer=settings.trainer,
        settings={},
    )  # fmt: skip
    seconds = train_and_score(job)
    return pd.read_parquet(folder / SCORES), seconds


def measure(conf: str, overrides: Sequence[str], night: str, seed: int) -> dict[str, Any]:
    """Train once, and return AUC, GAUC, and the sums of scores and clicks by domain.

    Args:
        conf: The name or path of the configuration.
        overrides: Overrides of settings as `key=value`.
        night: The night as YYYY-MM-DD.
        seed: The seed of the training run.
    """
    logging.disable(logging.WARNING)
    settings = load(conf, [*overrides, f"trainer.seed={seed}", "trainer.runtime.tensorboard=false"])
    if settings.preset == "auto" and read_recipe(settings.paths) is None:
        raise SystemExit(
            f"{settings.paths.warehouse}: no recipe; run `star-ctr recipe --conf {conf} --set preset=auto --renew`"
        )
    with tempfile.TemporaryDirectory() as folder:
        frame, seconds = score_night(settings, night, Path(folder))
    by_domain = frame.groupby("domain").agg(n=("label", "size"), score=("score", "sum"), label=("label", "sum"))
    return {
        "night": night,
        "seed": seed,
        "auc": float(roc_auc_score(frame["label"], frame["score"])),
        "gauc": compute_gauc(frame),
        "seconds": seconds,
        "domains": by_domain.astype(float).to_dict("index"),
    }


def summarize(runs: Sequence[dict[str, Any]], first: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the means of a variant, and its paired differences from the first variant with their standard errors.

    Args:
        runs: Results of `measure` for the variant.
        first: Results of `measure` for the first variant, in the same order of nights and seeds.
    """
    found: dict[str, Any] = {}
    for metric in ("auc", "gauc"):
        differences = np.array([a[metric] - b[metric] for a, b in zip(runs, first, strict=True)])
        found[metric] = float(np.mean([r[metric] for r in runs]))
        found[f"{metric}_difference"] = float(differences.mean())
        found[f"{metric}_error"] = (
            float(differences.std(ddof=1) / len(differences) ** 0.5) if len(differences) > 1 else float("nan")
        )
    found["seconds"] = float(np.mean([r["seconds"] for r in runs]))
    domains = pd.concat([pd.DataFrame.from_dict(r["domains"], orient="index") for r in runs])
    sums = domains.groupby(level=0).sum()
    large = sorted(sums["n"].nlargest(5).index)
    found["pcoc"] = {"all": float(sums["score"].sum() / sums["label"].sum())}
    found["pcoc"] |= {d: float(sums.loc[d, "score"] / sums.loc[d, "label"]) for d in large}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--conf", default="conf/kuairand.yaml", help="configuration")
    parser.add_argument("--set", action="append", default=[], dest="overrides", help="override for all variants")
    parser.add_argument("--variant", action="append", default=[], help="overrides, separated by spaces; may be empty")
    parser.add_argument("--nights", nargs="+", default=list(NIGHTS), help="nights as YYYY-MM-DD")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds per night")
    parser.add_argument(
        "--jobs",
        type=int,
        default=1,
        help="number of parallel training runs; if there are several, each uses one thread",
    )
    parser.add_argument("--json", default="build/choose.json", help="file for the results")
    arguments = parser.parse_args()
    threads = [] if arguments.jobs == 1 else ["trainer.threads=1"]
    results: list[dict[str, Any]] = []
    with ProcessPoolExecutor(arguments.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        for variant in arguments.variant or [""]:
            overrides = [*arguments.overrides, *threads, *variant.split()]
            pending = [
                pool.submit(measure, arguments.conf, overrides, night, seed)
                for seed in range(arguments.seeds)
                for night in arguments.nights
            ]
            runs = [p.result() for p in pending]
            found = summarize(runs, results[0]["runs"] if results else runs)
            if not results:
                domains = " ".join(found["pcoc"])
                print(
                    f"{'auc':>8} {'gauc':>8} {'Δauc':>8} {'±':>7} {'Δgauc':>8} {'±':>7} {'seconds':>7}  pcoc {domains}  variant"
                )
            results.append({"variant": variant, **found, "runs": runs})
            print(
                f"{found['auc']:8.4f} {found['gauc']:8.4f} {found['auc_difference']:+8.4f} {found['auc_error']:7.4f} "
                f"{found['gauc_difference']:+8.4f} {found['gauc_error']:7.4f} "
                f"{found['seconds']:7.1f}  "
                f"{' '.join(f'{v:.2f}' for v in found['pcoc'].values())}  {variant or '(default)'}",
                flush=True,
            )
            Path(arguments.json).parent.mkdir(parents=True, exist_ok=True)
            Path(arguments.json).write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
