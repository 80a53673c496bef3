"""Statistics for the paper's tables, computed from the metrics of a comparison with pandas.

The functions take a data frame with one row per model, night, seed and domain, which `make_frame` returns. `compared`
is the name of the model, `ds` the night, and the domain `overall` covers all rows of a night.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from scipy import stats

from star_ctr.conf.contracts.domains import OVERALL
from star_ctr.conf.settings.compare import Plan

BASE = "base"
"""The model that all others are compared with."""
PAPER_GAUC: Mapping[str, Mapping[str, float]] = {
    "Table 2": {
        "base": 0.6364, "shared_bottom": 0.6398, "mulann": 0.6353, "mmoe": 0.6403, "cross_stitch": 0.6415,
        "star": 0.6506,
    },
    "Table 3": {"base": 0.6364, "base_pn": 0.6485, "star_bn": 0.6455, "star": 0.6506},
    "Table 4": {"star_bn": 0.6455, "star_ln": 0.6463, "star": 0.6506},
}  # fmt: skip
"""Overall AUC in Tables 2, 3 and 4 of the paper, by model. The paper computes it by eq. 9, which is GAUC here."""
TITLES = {
    "base": "Base", "shared_bottom": "Shared Bottom", "mulann": "MulANN", "mmoe": "MMoE",
    "cross_stitch": "Cross-Stitch", "star": "STAR", "ple": "PLE", "pepnet": "PEPNet", "base_pn": "Base (PN)",
    "star_bn": "STAR FCN (BN)", "star_ln": "STAR FCN (LN)", "star_bn_single": "STAR FCN (BN, single-domain)",
    "star_ln_single": "STAR FCN (LN, single-domain)",
}  # fmt: skip
"""Names of the models in reports."""


def format_model(model: str) -> str:
    """Return the name of a model for reports."""
    plain = model.removesuffix("_noaux")
    return TITLES.get(plain, plain) + (" without auxiliary network" if plain != model else "")


@dataclass(frozen=True)
class PairedDifference:
    """The difference of a metric between two models, with a paired t-test over nights and seeds.

    Attributes:
        pairs: The number of pairs (night, seed) that both models have.
        difference: The mean difference over the pairs.
        t: The t statistic; None if there are fewer than two pairs or all differences are equal.
        p: The two-sided p-value; None in the same cases.
    """

    pairs: int
    difference: float
    t: float | None
    p: float | None


def make_frame(rows: Sequence[Mapping[str, object]]) -> pd.DataFrame:
    """Return the rows of a comparison as a data frame; undefined metrics are NaN."""
    metrics = pd.DataFrame(list(rows))
    return metrics.astype(dict.fromkeys(("auc", "gauc", "pcoc", "log_loss"), float))


def select_plan(metrics: pd.DataFrame, plan: Plan) -> pd.DataFrame:
    """Return the rows of a plan's nights and seeds, for all models that have every night and seed of the plan."""
    wanted = metrics[metrics["ds"].isin(plan.nights) & (metrics["seed"] < plan.seeds)]
    runs = wanted[wanted["domain"] == OVERALL].groupby("compared").size()
    return wanted[wanted["compared"].isin(runs.index[runs == len(plan.nights) * plan.seeds])]


def select_common(metrics: pd.DataFrame, models: Sequence[str]) -> pd.DataFrame:
    """Return the rows of some models, for the nights and seeds that all of them have.

    Args:
        metrics: The rows of the comparison.
        models: The names of the models. Models without any row are ignored.
    """
    part = metrics[metrics["compared"].isin(models)]
    overall = part[part["domain"] == OVERALL]
    model_counts = overall.groupby(["ds", "seed"])["compared"].nunique()
    pairs = model_counts.index[model_counts == overall["compared"].nunique()]
    return part[pd.MultiIndex.from_frame(part[["ds", "seed"]]).isin(pairs)]


def compute_means(metrics: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Compute the mean of a metric over nights and seeds.

    Args:
        metrics: The rows of the comparison.
        metric: The column of the metric.

    Returns:
        One row per domain and one column per model, in order of appearance; `overall` is the last row.
    """
    table = metrics.pivot_table(index="domain", columns="compared", values=metric, aggfunc="mean", sort=False)
    table = table[list(dict.fromkeys(metrics["compared"]))]
    return pd.concat([table.drop(OVERALL), table.loc[[OVERALL]]])


def compute_deviations(metrics: pd.DataFrame, metric: str) -> pd.Series:
    """Compute the variation of an overall metric between seeds.

    Args:
        metrics: The rows of the comparison.
        metric: The column of the metric.

    Returns:
        The standard deviation over seeds of the mean over nights, by model; NaN if there is only one seed.
    """
    overall = metrics[metrics["domain"] == OVERALL]
    return overall.groupby(["compared", "seed"])[metric].mean().groupby("compared").std()


def compare_pairs(metrics: pd.DataFrame, model: str, metric: str, base: str = BASE) -> PairedDifference | None:
    """Compare an overall metric of a model with that of `base`, paired by night and seed.

    Args:
        metrics: The rows of the comparison.
        model: The name of the model.
        metric: The column of the metric.
        base: The name of the model to compare with.

    Returns:
        The difference `model` - `base` with its t-test; None if the models have no night and seed in common.
    """
    overall = metrics[metrics["domain"] == OVERALL].set_index(["ds", "seed"])
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


def compare_order(metrics: pd.DataFrame, table: str) -> tuple[list[str], float] | None:
    """Compare the order of models by overall GAUC with their order in the paper.

    Only nights and seeds that all models of the table have are used.

    Args:
        metrics: The rows of the comparison.
        table: A table of the paper: a key of `PAPER_GAUC`.

    Returns:
        The models, highest GAUC first, and Kendall's tau with the paper's order; None if fewer than three models of the
        table were trained.
    """
    metrics = select_common(metrics, list(PAPER_GAUC[table]))
    overall = metrics[metrics["domain"] == OVERALL].groupby("compared")["gauc"].mean()
    models = [m for m in PAPER_GAUC[table] if m in overall.index]
    if len(models) < 3:
        return None
    tau = stats.kendalltau([PAPER_GAUC[table][m] for m in models], [overall[m] for m in models]).statistic
    return sorted(models, key=lambda m: -overall[m]), float(tau)
