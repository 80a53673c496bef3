"""Benchmark: STAR with hundreds of domains, most of them small.

Measures the time of a step, and compares STAR with Base, with low-rank domain-specific weights, and with shrinkage of
these weights by the rows of the domain (see `low_rank`).

The labels come from a known model, see `domain_world`. Sizes of domains follow Zipf's law: the smaller half of 1000
domains has 9% of the rows.

All models train for one epoch with the same rows and learning rates. The table shows AUC and GAUC of test rows: over all
domains, the smaller half of the domains, and the largest ten. Values are means over seeds; the differences from
`star` have a 95% interval, because each seed has its own data.

    python bench/many_domains.py [--domains 200 1000 --differences low_rank unstructured --seeds 3 --rows 200000]
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

# Import before torch: sets the OpenMP wait policy.
import star_ctr  # noqa: F401  # isort: skip

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from deltalake import DeltaTable
from domain_world import DIFFERENCES, World, make_layout, write_split
from entries import make_entry
from low_rank import shrink_domain_weights, use_rank
from rich.console import Console
from rich.table import Table
from scipy.stats import t as student_t

from star_ctr.conf.contracts.encoded_row import Layout
from star_ctr.conf.settings.model import ModelSettings
from star_ctr.conf.settings.trainer import TrainerSettings
from star_ctr.model.cost import measure_in_turns
from star_ctr.model.data.reader import Rows
from star_ctr.model.training.job import TrainingJob
from star_ctr.model.training.trainer import Trainer

DOMAINS = (200, 1000)
MODELS: dict[str, tuple[dict[str, Any], int | None]] = {
    "base": ({"name": "base", "norm": "bn"}, None),
    "star": ({}, None),
    "narrow": ({"layers": [32, 16]}, None),
    **{f"rank {rank}": ({}, rank) for rank in (1, 2, 4, 8)},
}
"""Settings and rank of each model. `narrow` is STAR with about as many parameters as with rank 4."""
PRIORS = (100, 1000)
"""Values of the prior, in rows, for the shrinkage of the domain-specific weights of `star`."""
SETTINGS: dict[str, Any] = {"layers": [128, 64], "activation": "silu", "dim": 8, "norm_eps": 0.1}
TRAINER = {"batch_size": 128, "lr": 0.002, "domain_lr": 0.02, "ema_decay": 0.99}
"""The settings that the recipe chooses for data of this size and rare clicks."""
FEW_DOMAINS = 20
FEW = f"star, {FEW_DOMAINS} domains"
"""A model whose step time shows how much of the time of a step comes from the number of domains."""
GROUPS = ("all", "small", "large")
"""All domains, the smaller half, and the largest ten."""


def make_trainer(folder: Path, layout: Layout, name: str, seed: int = 0) -> Trainer:
    """Return a trainer of a model on the split in a folder.

    Base has mixed batches, the others single-domain batches (§4.1).
    """
    model, rank = MODELS[name]
    table = str(folder / "split")
    job = TrainingJob(
        run_id=name, ds=layout.ds, split=table, versions={"split": DeltaTable(table).version()},
        folder=str(folder / name), code="", layout=layout, model=ModelSettings.model_validate({**SETTINGS, **model}),
        trainer=TrainerSettings.from_names(
            **TRAINER, device="cpu", threads=1, tensorboard=False, seed=seed,
            batches="mixed" if name == "base" else "single_domain",
        ), settings={},
    )  # fmt: skip
    with use_rank(rank):
        return Trainer(job)


def score_rows(trainer: Trainer, rows: Rows) -> npt.NDArray[np.float32]:
    """Return the scores of rows, (n,)."""
    score: npt.NDArray[np.float32] = trainer.model.predict(
        *(torch.from_numpy(a) for a in (rows.ints, rows.floats, rows.domain))
    ).numpy()
    return score


def compute_user_auc(user: npt.NDArray[Any], label: npt.NDArray[Any], score: npt.NDArray[Any]) -> float:
    """Return the GAUC (eq. 9) of n rows; with the same user in all rows, this is the AUC."""
    rows = pd.DataFrame({"user": user, "label": label.astype(float), "score": score})
    rows["ranks"] = rows.groupby("user")["score"].rank() * rows["label"]
    users = rows.groupby("user").agg(n=("label", "size"), clicks=("label", "sum"), ranks=("ranks", "sum"))
    users = users[(users["clicks"] > 0) & (users["clicks"] < users["n"])]
    pairs = users["clicks"] * (users["n"] - users["clicks"])
    auc = (users["ranks"] - users["clicks"] * (users["clicks"] + 1) / 2) / pairs
    return float((auc * users["n"]).sum() / users["n"].sum())


def compute_metrics(rows: Rows, score: npt.NDArray[Any]) -> dict[str, float]:
    """Return the AUC and GAUC of scores by group of domains, as `auc_<group>` and `gauc_<group>`."""
    masks = dict(zip(GROUPS, (rows.domain > 0, rows.domain > rows.domain.max() // 2, rows.domain <= 10), strict=True))
    found = {}
    for group, mask in masks.items():
        user, label = rows.ints[mask, 0], rows.label[mask]
        found[f"auc_{group}"] = compute_user_auc(np.zeros_like(user), label, score[mask])
        found[f"gauc_{group}"] = compute_user_auc(user, label, score[mask])
    return found


def measure_quality(domains: int, difference: str, rows: int, seed: int) -> dict[str, dict[str, float]]:
    """Train all models in a world, and return their metrics by model.

    `truth` are the metrics of the true logits, and `shared` of the logits without the differences between domains.
    """
    world, layout = World(domains, difference, seed), make_layout(domains)
    train, _, _ = world.draw(rows, seed + 100)
    test, logit, shared = world.draw(200_000, seed + 200)
    found = {"truth": compute_metrics(test, logit), "shared": compute_metrics(test, shared)}
    with tempfile.TemporaryDirectory() as name:
        write_split(str(Path(name) / "split"), layout, train, "train")
        for model in MODELS:
            trainer = make_trainer(Path(name), layout, model, seed)
            trainer.train()
            trainer.finish()
            found[model] = compute_metrics(test, score_rows(trainer, test))
            if model == "star":
                weights = {key: tensor.clone() for key, tensor in trainer.model.state_dict().items()}
                for prior in PRIORS:
                    trainer.model.load_state_dict(weights)
                    shrink_domain_weights(trainer.model, trainer.rows_by_domain, prior)
                    found[f"star, prior {prior}"] = compute_metrics(test, score_rows(trainer, test))
    return found


def measure_costs(domains: int, rounds: int = 60) -> tuple[dict[str, int], dict[str, float]]:
    """Measure the models other than Base, and `star` with 20 domains (`FEW`), in turns.

    Args:
        domains: The number of domains.
        rounds: The number of measured steps.

    Returns:
        The number of parameters, and the median time of a step in milliseconds, of each model.
    """
    models = [(FEW, FEW_DOMAINS, "star"), *((m, domains, m) for m in MODELS if m != "base")]
    trainers = {}
    with tempfile.TemporaryDirectory() as name:
        for n in {FEW_DOMAINS, domains}:
            rows, _, _ = World(n, "low_rank", 0).draw(20_000, 0)
            write_split(str(Path(name) / str(n) / "split"), make_layout(n), rows, "train")
        for label, n, model in models:
            trainers[label] = make_trainer(Path(name) / str(n), make_layout(n), model)
        steps = {m: _make_step(trainer, rounds) for m, trainer in trainers.items()}
    parameters = {m: sum(p.numel() for p in trainer.model.parameters()) for m, trainer in trainers.items()}
    return parameters, measure_in_turns(steps, rounds)


def _make_step(trainer: Trainer, n: int) -> Callable[[int], object]:
    """Return the action of a training step; round k uses batch k of n full batches."""
    batches = list(itertools.islice((b for b in trainer._iter_batches() if len(b.rows) == TRAINER["batch_size"]), n))
    return lambda k: trainer.train_step([batches[k % len(batches)]])


def compute_interval(differences: Sequence[float]) -> tuple[float, float]:
    """Return the mean of paired differences, and the half width of its 95% interval."""
    n = len(differences)
    half = student_t.ppf(0.975, n - 1) * np.std(differences, ddof=1) / n**0.5 if n > 1 else float("nan")
    return float(np.mean(differences)), float(half)


def print_quality(domains: int, difference: str, by_seed: Sequence[dict[str, dict[str, float]]]) -> None:
    """Print the metrics of all models in a world."""
    columns = list(by_seed[0]["star"])
    table = Table("model", *columns, title=f"{domains} domains, {difference}; below: difference from star")
    for model in by_seed[0]:
        cells = []
        for column in columns:
            mean, half = compute_interval([s[model][column] - s["star"][column] for s in by_seed])
            value = np.mean([s[model][column] for s in by_seed])
            cells.append(f"{value:.4f}\n{mean:+.4f} ± {half:.4f}")
        table.add_row(model, *cells)
    Console(width=150).print(table)


def print_costs(domains: int, parameters: dict[str, int], steps: dict[str, float]) -> None:
    """Print the cost of all models."""
    table = Table("model", "parameters", "relative to star", "step ms", "relative to star")
    table.title = f"{domains} domains, batches of {TRAINER['batch_size']} rows"
    for m, ms in steps.items():
        table.add_row(m, f"{parameters[m]:,}", f"{parameters[m] / parameters['star']:.2f}", f"{ms:.2f}",
                      f"{ms / steps['star']:.2f}")  # fmt: skip
    Console(width=150).print(table)


def run(
    domains: Sequence[int] = DOMAINS, differences: Sequence[str] = DIFFERENCES, seeds: int = 3, rows: int = 200_000
) -> list[dict[str, Any]]:
    """Measure all models, print tables, and return the entries of bench.json for each number of domains.

    Args:
        domains: The numbers of domains.
        differences: How domains differ, see `World`.
        seeds: The number of seeds.
        rows: The number of training rows.
    """
    entries = []
    for n in domains:
        parameters, steps = measure_costs(n)
        print_costs(n, parameters, steps)
        found = {d: [measure_quality(n, d, rows, seed) for seed in range(seeds)] for d in differences}
        for difference, by_seed in found.items():
            print_quality(n, difference, by_seed)
        all_seeds = [seed for by_seed in found.values() for seed in by_seed]
        base, half = compute_interval([s["star"]["gauc_all"] - s["base"]["gauc_all"] for s in all_seeds])
        entries += [
            make_entry(f"star_step_{n}_vs_{FEW_DOMAINS}_domains", steps["star"] / steps[FEW], "ratio of times", 1.5,
                       f"batches of {TRAINER['batch_size']} rows; with {FEW_DOMAINS} domains {steps[FEW]:.1f} ms"),
            make_entry(f"star_gauc_{n}_domains", base, "difference of GAUC from Base", 0.0,
                       f"95% interval +-{half:.4f}; rank 4 has {parameters['rank 4'] / parameters['star']:.2f} of the "
                       f"parameters: {_describe_rank(all_seeds, 'star')}; {_describe_rank(all_seeds, 'narrow')}",
                       least=True),
        ]  # fmt: skip
    return entries


def _describe_rank(all_seeds: Sequence[dict[str, dict[str, float]]], model: str) -> str:
    """Return the differences of the GAUC of rank 4 from another model, over all domains and over the smaller half."""
    texts = []
    for group in ("all", "small"):
        key = f"gauc_{group}"
        mean, half = compute_interval([s["rank 4"][key] - s[model][key] for s in all_seeds])
        texts.append(f"{group} {mean:+.4f} +-{half:.4f}")
    return f"from {model} {', '.join(texts)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--domains", type=int, nargs="+", default=DOMAINS, help="numbers of domains")
    parser.add_argument("--differences", nargs="+", default=DIFFERENCES, choices=DIFFERENCES, help="how domains differ")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds")
    parser.add_argument("--rows", type=int, default=200_000, help="number of training rows")
    arguments = parser.parse_args()
    for result in run(arguments.domains, arguments.differences, arguments.seeds, arguments.rows):
        print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
