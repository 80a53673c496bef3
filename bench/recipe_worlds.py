"""Benchmark: the recipe (`preset: auto`) and LightGBM on small logs, over many simulated worlds.

1. Make the worlds: each has its own seed of the simulator, so its own users, items and clicks. Spark simulates the logs
   and prepares two nights.
2. Train the recipe of the current code, the paper's settings, and the variants of `--try` with several seeds, and
   LightGBM on the same rows: with its defaults, and with the best of six settings, chosen on the first night.
3. Print the metrics, and the paired differences from LightGBM with 95% intervals of Student's t over the worlds. Nights
   and seeds are averaged first, because only worlds are independent. The searched LightGBM is compared on the second
   night only.

Worlds and finished runs are kept in `--folder`, so that the benchmark can be stopped and run again.

    python bench/recipe_worlds.py --impressions 20000 --worlds 1-16
    python bench/recipe_worlds.py --impressions 20000 --worlds 1-8 --try "trainer.epochs=2 model.dropout=0.2"
"""

from __future__ import annotations

import argparse
import json
import math
import pickle
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

# Import before torch: sets the OpenMP wait policy.
import star_ctr  # noqa: F401  # isort: skip

import lightgbm_scores
import numpy as np
import yaml
from many_domains import compute_interval
from simulated_world import NIGHTS, PreparedWorld, prepare_world

from star_ctr.conf.contracts.catalog import Warehouse
from star_ctr.conf.files import remove_folder, write_json
from star_ctr.features.evaluation.array_metrics import compute_array_metrics
from star_ctr.model.recipe_rule import choose_settings
from star_ctr.workflows.training_pool import open_pool
from star_ctr.workflows.tune.runs import Pair, Run, RunMetrics, RunStore, Trainer

DEFAULTS, SEARCHED = "lightgbm", "lightgbm, best of 6"
PREPARED = "prepared.pickle"
"""Name of the file of a prepared world."""
LIMIT = -0.001
"""The lowest acceptable lower bound of a difference from LightGBM."""
Found = dict[str, dict[str, list[dict[str, float]]]]
"""The metrics of a world by model and night: one per seed, each with `auc`, `gauc`, `predicted` and `clicks`."""


def list_models(world: PreparedWorld, tried: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the settings of each model in a world, by dotted key.

    Args:
        world: The world.
        tried: Changes of the recipe's settings, each as `key=value key=value ...`.
    """
    auto = choose_settings(world.size)
    changes = {text: dict(part.split("=", 1) for part in text.split()) for text in tried}
    variants = {text: {key: yaml.safe_load(value) for key, value in found.items()} for text, found in changes.items()}
    return {"auto": auto, "paper": {}, **{text: {**auto, **values} for text, values in variants.items()}}


def list_missing(folder: Path, worlds: Sequence[int]) -> list[int]:
    """Return the worlds that have not been prepared."""
    return [world for world in worlds if not (folder / f"world{world}" / PREPARED).exists()]


def prepare_missing(folder: Path, worlds: Sequence[int], impressions: int) -> None:
    """Prepare the missing worlds with one Spark session."""
    for world in list_missing(folder, worlds):
        own = folder / f"world{world}"
        if own.exists():
            remove_folder(own)  # the preparation was interrupted
        prepared = prepare_world(own, world, impressions)
        (own / PREPARED).write_bytes(pickle.dumps(prepared))
        print(f"world {world}: {prepared.size}", file=sys.stderr, flush=True)


def train_worlds(folder: Path, worlds: Sequence[int], tried: Sequence[str], seeds: int, jobs: int) -> list[Found]:
    """Train all models in all worlds, without the runs that are finished.

    Args:
        folder: The folder of the worlds.
        worlds: The worlds.
        tried: The variants of the recipe, see `list_models`.
        seeds: The number of seeds.
        jobs: The number of parallel training runs.
    """
    found: list[Found] = []
    with open_pool(jobs) as pool:
        waiting: list[dict[tuple[str, str], list[Future[RunMetrics | None]]]] = []
        for world in worlds:
            own = folder / f"world{world}"
            prepared: PreparedWorld = pickle.loads((own / PREPARED).read_bytes())
            store, trainer = RunStore(own), Trainer(prepared.settings, prepared.pins, own / "unfinished")
            waiting.append({
                (model, night): [
                    pool.submit(store.train, Run(values, Pair(night, seed)), trainer) for seed in range(seeds)
                ]
                for model, values in list_models(prepared, tried).items()
                for night in NIGHTS
            })  # fmt: skip
        for world, own_runs in zip(worlds, waiting, strict=True):
            metrics: Found = score_lightgbm(folder / f"world{world}")
            for (model, night), futures in own_runs.items():
                runs = [run for future in futures if (run := future.result()) is not None]
                if len(runs) < seeds:
                    raise SystemExit(f"world {world}: another process trains its runs; run the benchmark again later")
                metrics.setdefault(model, {})[night] = [_describe(run) for run in runs]
            found.append(metrics)
            print(f"world {world} is trained", file=sys.stderr, flush=True)
    return found


def _describe(run: RunMetrics) -> dict[str, float]:
    assert run.auc is not None, "all rows of a night have the same label"
    assert run.gauc is not None, "no user of a night has both labels"
    return {"auc": run.auc, "gauc": run.gauc, "predicted": run.predicted, "clicks": run.clicks}


def score_lightgbm(folder: Path) -> Found:
    """Train LightGBM in a world: with its defaults, and with the best of six settings, chosen on the first night."""
    file = folder / "lightgbm.json"
    if not file.exists():
        prepared: PreparedWorld = pickle.loads((folder / PREPARED).read_bytes())
        table = Warehouse(prepared.settings.paths).table("split")
        trials = [_train_lightgbm(table, NIGHTS[0], settings) for settings in lightgbm_scores.draw_trials(6)]
        best = int(np.argmax([found["auc"] + found["gauc"] for found in trials]))
        searched = lightgbm_scores.draw_trials(6)[best]
        write_json(file, {
            DEFAULTS: {night: [_train_lightgbm(table, night, lightgbm_scores.DEFAULTS)] for night in NIGHTS},
            SEARCHED: {NIGHTS[0]: [trials[best]], NIGHTS[1]: [_train_lightgbm(table, NIGHTS[1], searched)]},
        })  # fmt: skip
    loaded: Found = json.loads(file.read_text())
    return loaded


def _train_lightgbm(table: str, night: str, settings: dict[str, Any]) -> dict[str, float]:
    rows = lightgbm_scores.scores(table, night, {**settings, "num_threads": 1}, 1)
    found = compute_array_metrics(rows["user_id"].to_numpy(), rows["label"].to_numpy(float), rows["score"].to_numpy())
    return {"auc": found.auc, "gauc": found.gauc, "predicted": found.predicted, "clicks": found.clicks}  # type: ignore[dict-item]


def average(found: Mapping[str, Sequence[Mapping[str, float]]], metric: str, nights: Sequence[str]) -> float:
    """Return the mean of a metric over nights and seeds."""
    return float(np.mean([run[metric] for night in nights for run in found[night]]))


def print_table(worlds: Sequence[Found]) -> bool:
    """Print the metrics of all models, and whether `auto` reaches LightGBM; returns whether it does.

    Args:
        worlds: The metrics of each world.
    """
    clicks = sum(run["clicks"] for world in worlds for runs in world[DEFAULTS].values() for run in runs)
    print(f"{len(worlds)} worlds, {clicks:,.0f} clicks on the test days\n")
    print("| model | AUC | GAUC | PCOC | AUC - LightGBM | GAUC - LightGBM | AUC - searched | GAUC - searched |")
    print("|---|---|---|---|---|---|---|---|")
    bounds: list[float] = []
    for model in worlds[0]:
        runs = [run for world in worlds for seeds in world[model].values() for run in seeds]
        pcoc = sum(run["predicted"] for run in runs) / sum(run["clicks"] for run in runs)
        cells = [np.mean([average(world[model], m, NIGHTS) for world in worlds]) for m in ("auc", "gauc")]
        texts = [f"{cell:.4f}" for cell in cells] + [f"{pcoc:.3f}"]
        for reference, nights in ((DEFAULTS, NIGHTS), (SEARCHED, NIGHTS[1:])):
            for metric in ("auc", "gauc"):
                pairs = [average(w[model], metric, nights) - average(w[reference], metric, nights) for w in worlds]
                mean, half = compute_interval(pairs)
                texts.append(f"{mean:+.4f} ± {half:.4f}")
                bounds += [mean - half] if model == "auto" else []
        if model == "auto":
            reaches = min(bounds) >= LIMIT and abs(pcoc - 1) <= max(0.05, 2 / math.sqrt(clicks))
        print(f"| {model} | " + " | ".join(texts) + " |")
    print(f"\nauto {'reaches' if reaches else 'does not reach'} LightGBM")
    return reaches


def _parse_worlds(text: str) -> list[int]:
    """Parse `1-4,7` to [1, 2, 3, 4, 7]."""
    ranges = [part.split("-") for part in text.split(",")]
    return [world for part in ranges for world in range(int(part[0]), int(part[-1]) + 1)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--impressions", type=int, default=20_000, help="impressions of a world, in four days")
    parser.add_argument("--worlds", type=_parse_worlds, default="1-16", help="seeds of the worlds, such as 1-8,12")
    parser.add_argument("--try", action="append", default=[], dest="tried", help="changes of the recipe's settings")
    parser.add_argument("--seeds", type=int, default=3, help="training runs per night")
    parser.add_argument("--jobs", type=int, default=1, help="number of parallel training runs")
    parser.add_argument("--folder", type=Path, help="folder of the worlds; default: build/recipe-worlds-IMPRESSIONS")
    parser.add_argument("--prepare", action="store_true", help="only prepare the worlds, with one Spark session")
    options = parser.parse_args()
    folder = (options.folder or Path(f"build/recipe-worlds-{options.impressions}")).absolute()
    if options.prepare:
        prepare_missing(folder, options.worlds, options.impressions)
        return
    if list_missing(folder, options.worlds):
        # In a process of its own, so that Spark does not take memory and cores from training.
        subprocess.run([sys.executable, *sys.argv, "--prepare"], check=True)
    print_table(train_worlds(folder, options.worlds, options.tried, options.seeds, options.jobs))


if __name__ == "__main__":
    main()
