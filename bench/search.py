"""Search each compared model's settings with the same budget, on nights that no result is told of.

Every model is trained with the same draws of the same space, `--trials` of them, the first being the configuration as
it stands; what is best by the mean of AUC and GAUC over nights and seeds is printed as the YAML of `compare.settings`.
It is a comparison like any other: resumable, and every run stands in the tables.

    python bench/search.py --conf conf/kuairand.yaml --nights 2022-04-29,2022-04-30 --trials 6
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import Any

import yaml

from star_ctr.conf.contracts.domains import OVERALL
from star_ctr.conf.load import load
from star_ctr.conf.settings.compare import PAPER, TABLE_2, Plan
from star_ctr.jobs.io.session import start
from star_ctr.workflows.compare import run
from star_ctr.workflows.compare.tables import make_frame

SPACE: dict[str, list[Any]] = {
    "trainer.optimizer.lr": [0.0005, 0.001, 0.002],
    "trainer.optimizer.embedding_lr": [0.0002, 0.0003, 0.0005],
    "trainer.optimizer.weight_decay": [0.0, 0.01],
    "model.dropout": [0.1, 0.2, 0.3],
    "model.layers": [[128, 64], [256, 128, 64], [256, 128, 64, 32, 16, 16]],
}


def draws(trials: int, space: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """The settings of each trial; the first changes nothing."""
    rng = random.Random(0)
    return [{}, *({key: rng.choice(values) for key, values in space.items()} for _ in range(trials - 1))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--conf", default="conf/kuairand.yaml")
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    parser.add_argument("--models", default=",".join(TABLE_2))
    parser.add_argument("--nights", required=True)
    parser.add_argument("--trials", type=int, default=6)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--jobs", type=int)
    parser.add_argument("--json", default="build/search.json")
    arguments = parser.parse_args()
    trials = draws(arguments.trials, SPACE)
    models = arguments.models.split(",")
    named = {f"{m}_{k}": {**PAPER[m], **trial} for m in models for k, trial in enumerate(trials)}
    plan = Plan(models=list(named), nights=arguments.nights.split(","), seeds=arguments.seeds)
    # What an earlier search found is no part of the configuration that the draws start from; nor are its plans, whose
    # own models the draws replace.
    comparison = {"settings": {}, "models": named, "plans": [plan.model_dump(mode="json")]}
    overrides = [*arguments.overrides, *(f"compare.{key}={json.dumps(value)}" for key, value in comparison.items())]
    spark = start(load(arguments.conf, overrides), "search")
    results = run.run(arguments.conf, overrides, spark, jobs=arguments.jobs, measure=False)
    rows = make_frame(results.rows)
    scores = rows[rows["domain"] == OVERALL].groupby("compared")[["auc", "gauc"]].mean()
    scores["mean"] = scores.mean(axis=1)
    found = {}
    for m in models:
        of_model = scores.loc[[f"{m}_{k}" for k in range(len(trials))]]
        best = int(str(of_model["mean"].idxmax()).rsplit("_", 1)[1])
        found[m] = trials[best]
        print(f"{m}\n{of_model.round(4).to_string()}\n")
    Path(arguments.json).parent.mkdir(parents=True, exist_ok=True)
    Path(arguments.json).write_text(
        json.dumps({"trials": trials, "scores": scores.round(6).to_dict("index"), "found": found}, indent=1) + "\n"
    )
    print(yaml.safe_dump({"compare": {"settings": found}}, sort_keys=False, default_flow_style=None))


if __name__ == "__main__":
    main()
