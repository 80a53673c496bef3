"""Search the settings of each compared model with the same budget, on nights that are not used for reported results.

1. Draw `--trials` random settings. The first trial uses the configuration unchanged. All models use the same draws.
2. Train every model with every trial. This is a comparison like that of `star-ctr compare`: it can be resumed, and all
   runs are written to the tables.
3. Print the best trial of each model, by the mean of AUC and GAUC over nights and seeds, as YAML for
   `compare.settings`.

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
from star_ctr.conf.settings.compare import DEFAULT_MODELS, PREDEFINED_MODELS, Plan
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
"""The values to search, by setting."""


def draw_trials(trials: int, space: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """Return the overrides of each trial; those of the first trial are empty.

    Args:
        trials: The number of trials.
        space: The values of each setting.
    """
    rng = random.Random(0)
    return [{}, *({key: rng.choice(values) for key, values in space.items()} for _ in range(trials - 1))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--conf", default="conf/kuairand.yaml", help="configuration")
    parser.add_argument("--set", action="append", default=[], dest="overrides", help="override for all trials")
    parser.add_argument("--models", default=",".join(DEFAULT_MODELS), help="models, separated by commas")
    parser.add_argument("--nights", required=True, help="nights, separated by commas")
    parser.add_argument("--trials", type=int, default=6, help="number of settings to try per model")
    parser.add_argument("--seeds", type=int, default=1, help="number of seeds per trial and night")
    parser.add_argument("--jobs", type=int, help="number of parallel training runs; default: the number of cores")
    parser.add_argument("--json", default="build/search.json", help="file for the results")
    arguments = parser.parse_args()
    trials = draw_trials(arguments.trials, SPACE)
    models = arguments.models.split(",")
    named = {f"{m}_{k}": {**PREDEFINED_MODELS[m], **trial} for m in models for k, trial in enumerate(trials)}
    plan = Plan(models=list(named), nights=arguments.nights.split(","), seeds=arguments.seeds)
    # Replace the whole section `compare`: results of an earlier search must not affect the trials, and the plans of the
    # configuration may use models that are not declared here.
    comparison = {"settings": {}, "models": named, "plans": [plan.model_dump(mode="json")]}
    overrides = [*arguments.overrides, *(f"compare.{key}={json.dumps(value)}" for key, value in comparison.items())]
    spark = start(load(arguments.conf, overrides), "search")
    results = run.run(arguments.conf, overrides, spark, jobs=arguments.jobs, measure=False)
    rows = make_frame(results.rows)
    scores = rows[rows["domain"] == OVERALL].groupby("compared")[["auc", "gauc"]].mean()
    scores["mean"] = scores.mean(axis=1)
    found = {}
    for m in models:
        model_scores = scores.loc[[f"{m}_{k}" for k in range(len(trials))]]
        best = int(str(model_scores["mean"].idxmax()).rsplit("_", 1)[1])
        found[m] = trials[best]
        print(f"{m}\n{model_scores.round(4).to_string()}\n")
    Path(arguments.json).parent.mkdir(parents=True, exist_ok=True)
    Path(arguments.json).write_text(
        json.dumps({"trials": trials, "scores": scores.round(6).to_dict("index"), "found": found}, indent=1) + "\n"
    )
    print(yaml.safe_dump({"compare": {"settings": found}}, sort_keys=False, default_flow_style=None))


if __name__ == "__main__":
    main()
