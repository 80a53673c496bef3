"""How often `star-ctr domains` finds a planted harmful and a planted helpful domain in simulated worlds.

In each world, clicks in d14 follow the opposite preferences, and clicks in d08 follow those of d09. Spark makes the logs and their splits. Training
and the metrics need no Spark: the metrics are computed here with NumPy, independently of `star-ctr domains`.

    python bench/planted_domains.py --worlds 11 12 13 --folder build/planted
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import yaml
from pyspark.sql import SparkSession

from star_ctr.conf.contracts.catalog import Warehouse
from star_ctr.conf.load import load
from star_ctr.features.evaluation.loss_sums import LossSums, compute_log_loss, compute_row_losses
from star_ctr.features.evaluation.poisson_bootstrap import Ints, draw_weights
from star_ctr.features.evaluation.ranked_auc import RankSums, compute_auc
from star_ctr.features.evaluation.user_auc import UserSums, compute_gauc, count_wins
from star_ctr.jobs import features, ingest, split, train
from star_ctr.jobs.io.session import start
from star_ctr.jobs.tools import simulate
from star_ctr.jobs.tools.run_estimates import RowSubset, RunEstimate
from star_ctr.model import offline
from star_ctr.model.distributed.process_lifetime import end_with_parent
from star_ctr.model.training.job import TrainingJob
from star_ctr.workflows.domains.effects import Effect, compute_effects, list_parts
from star_ctr.workflows.domains.run import iter_models
from star_ctr.workflows.trials import EXPERIMENT_OVERRIDES

DOMAINS = ["d08", "d09", "d14"]
FEATURES = ("user", "item", "category", "age", "gender", "city", "hour", "level", "price")
NOISE_COLUMNS = {
    "noise": "cast(pmod(xxhash64(impression_id), 50) as string)",
    "noise_number": "pmod(xxhash64(impression_id, 1), 1000)",
}
"""Columns of the impression log that say nothing about clicks, as Spark SQL expressions."""
IMPRESSION_FEATURES = [
    {"name": "position", "kind": "numeric", "column": "impressions.position"},
    {"name": "noise", "kind": "categorical", "column": "impressions.noise"},
    {"name": "noise_number", "kind": "numeric", "column": "impressions.noise_number"},
]
MODELS = {
    "base": ["model.name=base", "model.norm=bn", "trainer.data.batches=mixed"],
    "star": [],
}
"""Overrides of the models, by name."""
NIGHT, SAMPLES = "2026-01-08", 200
_BLOCK = 5_000


def write_configuration(world: int, impressions: int, folder: Path) -> Path:
    """Write the configuration of a world, `world.yaml`, to its folder."""
    conf = yaml.safe_load(Path("conf/demo.yaml").read_text(encoding="utf-8"))
    conf |= {
        "name": f"planted-{world}",
        "paths": {"logs": str(folder / "logs"), "warehouse": str(folder / "warehouse")},
        "domains": {"known": DOMAINS, "unknown": "drop"},
        "features": [*(f for f in conf["features"] if f["name"] in FEATURES), *IMPRESSION_FEATURES],
    }
    conf["logs"]["impressions"]["columns"] = NOISE_COLUMNS
    conf["simulate"] |= {
        "impressions": impressions, "users": impressions // 200, "items": impressions // 400, "seed": world,
        "same_clicks": {"d08": "d09"}, "opposite_clicks": ["d14"],
    }  # fmt: skip
    conf["trainer"] |= {"threads": 1, "device": "cpu", "runtime": {"tensorboard": False}}
    del conf["history"], conf["logs"]["behaviours"], conf["compare"]
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "world.yaml"
    file.write_text(yaml.safe_dump(conf, sort_keys=False), encoding="utf-8")
    return file


def prepare(conf: Path, spark: SparkSession) -> None:
    """Simulate the logs of a world, and write the split of its last day."""
    settings = load(conf)
    simulate.run(settings, spark)
    for step in (ingest, features, split):
        step.run(settings, spark, NIGHT)


def make_jobs(conf: Path, overrides: Sequence[str], seeds: int) -> dict[tuple[str, int], TrainingJob]:
    """Make the training jobs of a world, by name of the model and seed."""
    settings = load(conf, overrides)
    store: Any = SimpleNamespace(warehouse=Warehouse(settings.paths), read=lambda *_: None)
    pinned = train.pin_versions(store, NIGHT)
    jobs = {}
    for name, selection in iter_models(settings.trainer.data, DOMAINS, DOMAINS):
        for seed in range(seeds):
            own = [*overrides, *EXPERIMENT_OVERRIDES, *selection, f"trainer.seed={seed}"]
            jobs[name, seed] = train.make_job(load(conf, own), store, NIGHT, pinned)
    return jobs


def compute_world_effects(conf: Path, overrides: Sequence[str], seeds: int, jobs: int) -> list[Effect]:
    """Train all models of a world, and compute the effects of its domains."""
    training_jobs = make_jobs(conf, overrides, seeds)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=end_with_parent, initargs=(os.getpid(),)) as pool:
        list(pool.map(offline.train_and_score, [j for j in training_jobs.values() if not offline.is_trained(j)]))
    estimates = {}
    for (name, seed), job in training_jobs.items():
        scores = pq.read_table(job.path / offline.SCORES)
        rows = {column: np.array(scores[column].to_pylist()) for column in ("domain", "user_id", "label", "score")}
        rows["key"] = hash_users(rows["user_id"])
        for model, part in list_parts(DOMAINS, DOMAINS):
            if model == name:
                estimates[name, NIGHT, seed, part] = estimate(rows, part)
    return compute_effects(estimates, DOMAINS, [NIGHT], range(seeds), 0.95)


def hash_users(users: np.ndarray[Any, Any]) -> Ints:
    """Return a 64-bit hash of each user, (n,)."""
    names, index = np.unique(users, return_inverse=True)
    digests = (hashlib.blake2b(str(name).encode(), digest_size=8).digest() for name in names)
    return np.array([int.from_bytes(d, "big", signed=True) for d in digests])[index]


def estimate(rows: dict[str, np.ndarray[Any, Any]], part: RowSubset) -> RunEstimate:
    """Return the metrics on a part of the rows, with bootstrap samples."""
    own = (rows["domain"] == part.domain) != part.is_rest
    order = np.lexsort((rows["score"][own], rows["key"][own]))
    key, score, positive = (v[own][order] for v in (rows["key"], rows["score"], rows["label"] > 0))
    starts, seen, clicked, wins = count_wins(key, score, positive)
    both = (clicked > 0) & (clicked < seen)
    users, ranks, losses = UserSums(1 + SAMPLES), RankSums(1 + SAMPLES), LossSums(1 + SAMPLES)
    weight = draw_weights(key[starts[both]], SAMPLES, 0)
    users.add(seen[both], wins[both] / (2.0 * clicked[both] * (seen - clicked)[both]), weight)
    order = np.argsort(score)
    for first in range(0, len(order), _BLOCK):
        block = order[first : first + _BLOCK]
        weight = draw_weights(key[block], SAMPLES, 0)
        ranks.add(score[block], positive[block], weight)
        losses.add(compute_row_losses(score[block], positive[block]), weight)
    samples = {
        "gauc": compute_gauc(users.rows, users.whole, users.part),
        "auc": compute_auc(ranks.positive, ranks.negative, ranks.wins),
        "log_loss": compute_log_loss(losses.rows, losses.loss),
    }
    counts = seen[both].astype(float)
    return RunEstimate(samples, len(starts), float(counts.sum() ** 2 / np.square(counts).sum()) if len(counts) else 0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, nargs="+", default=[11, 12, 13], help="seeds of the worlds")
    parser.add_argument("--impressions", type=int, default=200_000, help="impressions of a world, in all domains")
    parser.add_argument("--seeds", type=int, default=3, help="training seeds")
    parser.add_argument("--jobs", type=int, default=2, help="parallel training runs")
    parser.add_argument("--folder", type=Path, default=Path("build/planted"), help="folder for logs and tables")
    arguments = parser.parse_args()
    folders = {w: arguments.folder.absolute() / f"{w}-{arguments.impressions}" for w in arguments.worlds}
    confs = {w: write_configuration(w, arguments.impressions, folder) for w, folder in folders.items()}
    if missing := [w for w, folder in folders.items() if not (folder / "warehouse" / "split").exists()]:
        spark = start(load(confs[missing[0]]), "planted")
        for world in missing:
            prepare(confs[world], spark)
        spark.stop()
    found: dict[str, list[bool]] = {}
    for model, overrides in MODELS.items():
        for world, conf in confs.items():
            for e in compute_world_effects(conf, overrides, arguments.seeds, arguments.jobs):
                if (e.family, e.domain, e.on) not in (("others", "d14", None), ("pair", "d08", "d09")):
                    continue
                wanted = "harms" if e.domain == "d14" else "helps"
                found.setdefault(f"{model}, {e.metric}: {e.domain} {wanted}", []).append(e.verdict == wanted)
                print(
                    f"{model:5} world {world}: {e.metric:8} {e.domain} on {e.on or 'others':6} {e.value:+.4f} "
                    f"({e.low:+.4f} to {e.high:+.4f}) p={e.p:.1g} {e.verdict}",
                    flush=True,
                )
    for name, results in found.items():
        print(f"{name:35} in {sum(results)} of {len(results)} worlds")


if __name__ == "__main__":
    main()
