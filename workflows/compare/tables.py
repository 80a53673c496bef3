"""The paper's tables from the metrics of a comparison: means, deviations, paired tests, orders beside the paper's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from scipy import stats

from star_ctr.conf.contracts.encoded_row import OVERALL
from star_ctr.conf.settings.compare import Plan

BASE = "base"
IN_PAPER: Mapping[str, Mapping[str, float]] = {
    # Overall AUC (which is eq. 9) as printed in Tables 2, 3 and 4.
    "Table 2": {
        "base": 0.6364, "shared_bottom": 0.6398, "mulann": 0.6353, "mmoe": 0.6403, "cross_stitch": 0.6415,
        "star": 0.6506,
    },
    "Table 3": {"base": 0.6364, "base_pn": 0.6485, "star_bn": 0.6455, "star": 0.6506},
    "Table 4": {"star_bn": 0.6455, "star_ln": 0.6463, "star": 0.6506},
}  # fmt: skip
TITLES = {
    "base": "Base", "shared_bottom": "Shared Bottom", "mulann": "MulANN", "mmoe": "MMoE",
    "cross_stitch": "Cross-Stitch", "star": "STAR", "ple": "PLE", "pepnet": "PEPNet", "base_pn": "Base (PN)",
    "star_bn": "STAR FCN (BN)", "star_ln": "STAR FCN (LN)", "star_bn_single": "STAR FCN (BN, single-domain)",
    "star_ln_single": "STAR FCN (LN, single-domain)",
}  # fmt: skip


def format_model(model: str) -> str:
    """A model's name as people write it."""
    plain = model.removesuffix("_noaux")
    return TITLES.get(plain, plain) + (" without auxiliary network" if plain != model else "")


@dataclass(frozen=True)
class PairedDifference:
    """The mean difference of a metric to Base over the pairs of (night, seed) that both have, and a paired t-test.

    `t` and `p` (two-sided) are None for fewer than two pairs, or where all differences are equal.
    """

    pairs: int
    difference: float
    t: float | None
    p: float | None


def make_frame(rows: Sequence[Mapping[str, object]]) -> pd.DataFrame:
    """The rows of a comparison as a frame; metrics that are undefined are NaN."""
    found = pd.DataFrame(list(rows))
    return found.astype(dict.fromkeys(("auc", "gauc", "pcoc", "log_loss"), float))


def select_plan(found: pd.DataFrame, plan: Plan) -> pd.DataFrame:
    """The rows of all models that have every night and seed of a plan, on those nights and seeds alone."""
    wanted = found[found["ds"].isin(plan.nights) & (found["seed"] < plan.seeds)]
    runs = wanted[wanted["domain"] == OVERALL].groupby("compared").size()
    return wanted[wanted["compared"].isin(runs.index[runs == len(plan.nights) * plan.seeds])]


def select_common(found: pd.DataFrame, models: Sequence[str]) -> pd.DataFrame:
    """The rows of these models (those of them that there are), on the nights and seeds that all of them have."""
    part = found[found["compared"].isin(models)]
    overall = part[part["domain"] == OVERALL]
    having = overall.groupby(["ds", "seed"])["compared"].nunique()
    pairs = having.index[having == overall["compared"].nunique()]
    return part[pd.MultiIndex.from_frame(part[["ds", "seed"]]).isin(pairs)]


def compute_means(found: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The mean of a metric over nights and seeds: domains (`overall` last) x models, in their order of appearance."""
    table = found.pivot_table(index="domain", columns="compared", values=metric, aggfunc="mean", sort=False)
    table = table[list(dict.fromkeys(found["compared"]))]
    return pd.concat([table.drop(OVERALL), table.loc[[OVERALL]]])


def compute_deviations(found: pd.DataFrame, metric: str) -> pd.Series:
    """By model, the standard deviation over seeds of the overall metric's mean over nights; NaN for one seed."""
    overall = found[found["domain"] == OVERALL]
    return overall.groupby(["compared", "seed"])[metric].mean().groupby("compared").std()


def compare_pairs(found: pd.DataFrame, model: str, metric: str, base: str = BASE) -> PairedDifference | None:
    """How a model differs from `base`, pair by pair; None where they share no night and seed."""
    overall = found[found["domain"] == OVERALL].set_index(["ds", "seed"])
    both = pd.concat(
        [overall[overall["compared"] == name][metric].rename(name) for name in (model, base)], axis=1, join="inner"
    ).dropna()
    if both.empty:
        return None
    differences = both[model] - both[base]
    if len(both) < 2 or differences.std() == 0:
        return PairedDifference(len(both), float(differences.mean()), None, None)
    test = stats.ttest_rel(both[model], both[base])
    return PairedDifference(len(both), float(differences.mean()), float(test.statistic), float(test.pvalue))


def compare_order(found: pd.DataFrame, table: str) -> tuple[list[str], float] | None:
    """The models of one of the paper's tables by their overall GAUC here, best first, and Kendall's tau with its order.

    On the nights and seeds that all of them have; None where fewer than three of them were trained.
    """
    found = select_common(found, list(IN_PAPER[table]))
    overall = found[found["domain"] == OVERALL].groupby("compared")["gauc"].mean()
    models = [m for m in IN_PAPER[table] if m in overall.index]
    if len(models) < 3:
        return None
    tau = stats.kendalltau([IN_PAPER[table][m] for m in models], [overall[m] for m in models]).statistic
    return sorted(models, key=lambda m: -overall[m]), float(tau)
