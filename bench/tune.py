"""Benchmark: what the settings that `star-ctr tune` proposes gain on a night that the search has not seen.

1. Make `--worlds` worlds. `--kind simulated`: simulated logs, whose nights are prepared with Spark. `--kind small`: the
   worlds of `small_worlds.py`, whose training runs take a second. `--kind formula`: those of `formula_worlds.py`, in which
   a formula replaces training.
2. In each world, search for `--minutes` or `--trials`.
3. Print the gain on the unseen night of each world with its 95% interval. The gain is 0 if no settings are proposed.

The logs and the searches are kept in `--folder`, so that the benchmark can be stopped and run again.

    python bench/tune.py --worlds 10 --minutes 30
    python bench/tune.py --worlds 10 --minutes 2 --kind small
    python bench/tune.py --worlds 20 --trials 40 --seeds 16 --jobs 1 --kind formula
"""

from __future__ import annotations

import argparse
import json
import pickle
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

# Import before torch: sets the OpenMP wait policy.
import star_ctr  # noqa: F401  # isort: skip

import formula_worlds
import small_worlds
import yaml
from entries import make_entry

from star_ctr.workflows.training_pool import open_pool
from star_ctr.workflows.tune.run import Options

DAYS = 6
"""Days of a world: the newest night, the unseen night, two nights to search on, and at least two days to train on."""


def simulate_world(folder: Path, world: int, impressions: int) -> None:
    """Simulate the logs of a world with Spark, and prepare its nights.

    Args:
        folder: The folder of the world.
        world: The number of the world, which is the seed of the simulation.
        impressions: The number of impressions.
    """
    from star_ctr.conf.load import load
    from star_ctr.jobs.io.session import start
    from star_ctr.jobs.tools import simulate
    from star_ctr.workflows.tune.nights import prepare

    size = {"impressions": impressions, "users": impressions // 25, "items": max(500, impressions // 50)}
    demo = yaml.safe_load((Path(__file__).parent.parent / "conf/demo.yaml").read_text())
    # Without `model` and `trainer`, so that the search starts from the recipe.
    conf = {key: value for key, value in demo.items() if key not in ("model", "trainer", "compare", "preset")} | {
        "name": f"world{world}",
        "paths": {"logs": str(folder / "logs"), "warehouse": str(folder / "warehouse")},
        "simulate": {**demo["simulate"], **size, "days": DAYS, "seed": 1000 + world},
    }
    file = folder / "world.yaml"
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(conf, sort_keys=False))
    spark = start(load(file, with_recipe=False), "tune")
    simulate.run(load(file, with_recipe=False), spark)
    prepared = prepare(load(file, with_recipe=False), spark)
    (folder / "prepared.pickle").write_bytes(pickle.dumps(prepared))


def search_world(folder: Path, prepared: Any, options: Any, runner: Any) -> dict[str, Any]:
    """Search in a prepared world, and return the result as JSON values.

    Args:
        folder: The folder of the world.
        prepared: The inputs of the search.
        options: The options of the search.
        runner: Trains the runs; None to train them on the data of the world.
    """
    from star_ctr.workflows.tune import report
    from star_ctr.workflows.tune.run import run

    target = folder / f"result-{options.trials}-{options.minutes}-{options.seeds}.json"
    if not target.exists():
        result = run(prepared, options, runner, open_pool if runner is None else ThreadPoolExecutor)
        found = report.write(result, str(folder / "world.yaml"), [], f"tune {options}", folder / "report")
        target.write_text(json.dumps(found, indent=1) + "\n")
    loaded: dict[str, Any] = json.loads(target.read_text())
    return loaded


def summarize(results: list[dict[str, Any]], details: str) -> list[dict[str, Any]]:
    """Print the gain of each world, and return the entries of bench.json.

    Args:
        results: The result of each world.
        details: A description of the worlds and of the budget.
    """
    print(
        f"{'world':>8} {'trials':>6} {'runs':>5} {'other seeds':>18} {'unseen night':>13} {'95% interval':>18}  settings"
    )
    gains, losses, wins = [], 0, 0
    for found in results:
        unseen = found["unseen"]
        gains.append(unseen["gain"] if unseen else 0.0)
        shown = f"{'none':>18} {0:+13.4f} {'':>18}"
        if unseen:
            best = next(c for c in found["candidates"] if c["values"] == found["proposed"])
            interval = f"{unseen['low']:+.4f} to {unseen['high']:+.4f}"
            shown = f"{best['gain']:+.4f} ± {best['error']:.4f}".rjust(18) + f" {unseen['gain']:+13.4f} {interval:>18}"
            losses += unseen["high"] < 0
            wins += unseen["low"] > 0
        settings = json.dumps(found["proposed"] or {})
        print(f"{found['name']:>8} {sum(found['trials'].values()):>6} {found['runs']:>5} {shown}  {settings}")
    proposals = sum(found["proposed"] is not None for found in results)
    reference = (
        f"GAUC on the unseen night, {proposals} proposals in {len(results)} worlds, {wins} significant gains; {details}"
    )
    mean = sum(gains) / len(gains)
    return [
        make_entry("tune_mean_gain", mean, "GAUC", 0, reference, least=True) | {"value": round(mean, 5)},
        make_entry("tune_significant_losses", losses, "worlds", 1, reference),
    ]


def run(
    worlds: int = 20,
    kind: str = "formula",
    trials: int | None = 40,
    minutes: float | None = None,
    seeds: int = 16,
    impressions: int = 150_000,
    jobs: int | None = None,
    folder: Path | None = None,
) -> list[dict[str, Any]]:
    """Search in all worlds, and return the entries of bench.json.

    Args:
        worlds: The number of worlds.
        kind: `simulated`, `small` or `formula`.
        trials: The number of trials per world; None for no limit.
        minutes: The time per world; None for no limit.
        seeds: The minimum number of seeds per night with which the best trials are retrained.
        impressions: The number of impressions of a simulated world.
        jobs: The number of parallel training runs; by default, the number of cores.
        folder: The folder of the worlds; by default, a temporary one.
    """
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="star-ctr-tune-") as name:
            return run(worlds, kind, trials, minutes, seeds, impressions, jobs, Path(name))
    options, results = Options(trials, minutes, jobs, seeds), []
    for k in range(worlds):
        own, runner = folder / f"{kind}{k}", None
        if kind == "formula":
            prepared, runner = formula_worlds.prepare_world(own, k), formula_worlds.FormulaRunner(k)
        elif kind == "small":
            prepared = small_worlds.prepare_world(own, k)
        else:
            if not (own / "prepared.pickle").exists():
                # In a process of its own, so that Spark does not take memory and cores from the search.
                command = ["--world", str(k), "--folder", str(own), "--impressions", str(impressions)]
                subprocess.run([sys.executable, __file__, *command], check=True)
            prepared = pickle.loads((own / "prepared.pickle").read_bytes())
        results.append(search_world(own, prepared, options, runner))
    size = f"simulated, {impressions:,} impressions in {DAYS} days" if kind == "simulated" else kind
    budget = " and ".join(f"{n:g} {unit}" for n, unit in ((trials, "trials"), (minutes, "minutes")) if n is not None)
    return summarize(results, f"{size}; {budget} per world, at least {seeds} seeds")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=10, help="number of worlds")
    parser.add_argument("--kind", choices=["simulated", "small", "formula"], default="simulated", help="kind of world")
    parser.add_argument("--minutes", type=float, help="time for the search in a world")
    parser.add_argument("--trials", type=int, help="number of trials in a world")
    parser.add_argument("--seeds", type=int, default=4, help="minimum number of seeds of the retrained trials")
    parser.add_argument("--impressions", type=int, default=150_000, help="impressions of a simulated world")
    parser.add_argument("--jobs", type=int, help="number of parallel training runs; default: the number of cores")
    parser.add_argument("--folder", default="build/tune-worlds", help="folder of the worlds")
    parser.add_argument("--world", type=int, help="only simulate and prepare this world, in --folder")
    arguments = parser.parse_args()
    if arguments.world is not None:
        simulate_world(Path(arguments.folder), arguments.world, arguments.impressions)
    else:
        entries = run(
            arguments.worlds, arguments.kind, arguments.trials, arguments.minutes, arguments.seeds,
            arguments.impressions, arguments.jobs, Path(arguments.folder),
        )  # fmt: skip
        print(json.dumps(entries, indent=1))
