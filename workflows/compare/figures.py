"""Figures 6 and 7 of the paper for a comparison, and the difference of each model from Base by night and seed.

The functions take the metrics of a comparison as a data frame (see `tables`) and write a PNG file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from star_ctr.conf.contracts.domains import OVERALL
from star_ctr.conf.settings.compare import NO_AUX_SUFFIX
from star_ctr.workflows.compare.tables import BASE, compute_deviations, compute_means, format_model

COLORS = ("#4477AA", "#EE6677", "#228833", "#CCBB44", "#66CCEE", "#AA3377", "#BBBBBB")
"""Colors of the models, which people with color vision deficiency can also distinguish."""
mpl.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "star-ctr"})


def draw_auxiliary(metrics: pd.DataFrame, file: Path) -> bool:
    """Draw Figure 6: overall GAUC of each model with and without the auxiliary network.

    Args:
        metrics: The rows of the comparison.
        file: The PNG file to write.

    Returns:
        Whether the figure was written; False if no model was trained both with and without the auxiliary network.
    """
    names = list(dict.fromkeys(metrics["compared"]))
    both = [m for m in names if m + NO_AUX_SUFFIX in names]
    if not both:
        return False
    overall, spread = compute_means(metrics, "gauc").loc[OVERALL], compute_deviations(metrics, "gauc")
    figure, axes = _make_figure(7, 3.6)
    for k, (suffix, label) in enumerate((("", "with auxiliary network"), (NO_AUX_SUFFIX, "without auxiliary network"))):
        positions = [i + 0.38 * (k - 0.5) for i in range(len(both))]
        names = [m + suffix for m in both]
        axes.bar(positions, overall[names], 0.36, yerr=spread[names], color=COLORS[k], label=label, capsize=2)
    axes.set_xticks(range(len(both)), [format_model(m) for m in both], rotation=20, ha="right")
    shown = [m + s for m in both for s in ("", NO_AUX_SUFFIX)]
    values, spreads = overall[shown], spread[shown].fillna(0)
    low, high = (values - spreads).min(), (values + spreads).max()
    margin = max(0.3 * (high - low), 1e-3)
    axes.set_ylim(low - margin, high + margin)
    axes.set_ylabel("overall GAUC ± std. dev. over seeds")
    axes.legend(frameon=False, ncols=2, loc="lower left", bbox_to_anchor=(0, 1))
    figure.savefig(file, dpi=150)
    return True


def draw_calibration(metrics: pd.DataFrame, file: Path, models: tuple[str, ...] = (BASE, "star")) -> bool:
    """Draw Figure 7: PCOC (predicted clicks / actual clicks) of each domain, as circles.

    The area of a circle grows linearly with the clicks of its domain.

    Args:
        metrics: The rows of the comparison.
        file: The PNG file to write.
        models: The models to show.

    Returns:
        Whether the figure was written; False if one of the models has no domain with a defined PCOC.
    """
    shown = metrics[(metrics["domain"] != OVERALL) & metrics["pcoc"].notna() & metrics["compared"].isin(models)]
    if set(shown["compared"]) != set(models):
        return False
    # Pool nights and seeds, because PCOC is noisy on a night with few clicks.
    sums = shown.assign(predicted=shown["pcoc"] * shown["clicks"]).groupby(["compared", "domain"])
    pooled = sums[["predicted", "clicks"]].sum()
    pooled["pcoc"] = pooled["predicted"] / pooled["clicks"]
    figure, axes = _make_figure(5, 3.8)
    axes.axhline(1, color="#888888", linewidth=0.8)
    for k, model in enumerate(models):
        by_domain = pooled.loc[[model]].sort_values("clicks", ascending=False)
        size = 25 + 500 * by_domain["clicks"] / pooled["clicks"].max()
        # Spread the circles horizontally in a fixed order, so that circles with the same PCOC do not overlap.
        positions = [k + 0.3 * ((i * 0.618) % 1 - 0.5) for i in range(len(by_domain))]
        axes.scatter(positions, by_domain["pcoc"], s=size, facecolors="none", edgecolors=COLORS[k], linewidths=1.5)
        for position, domain, value in zip(
            positions, by_domain.index.get_level_values("domain"), by_domain["pcoc"], strict=True
        ):
            axes.annotate(domain, (position, value), fontsize=7, ha="center", va="center")
    axes.set_xticks(range(len(models)), [format_model(m) for m in models])
    axes.set_xlim(-0.5, len(models) - 0.5)
    axes.set_ylabel("PCOC by domain")
    figure.savefig(file, dpi=150)
    return True


def draw_differences(metrics: pd.DataFrame, file: Path) -> bool:
    """Draw the difference of overall GAUC from Base, one dot per night and seed, with the mean of each model.

    Args:
        metrics: The rows of the comparison.
        file: The PNG file to write.

    Returns:
        Whether the figure was written; False without Base or without other models.
    """
    overall = metrics[metrics["domain"] == OVERALL].set_index(["compared", "ds", "seed"])["gauc"]
    models = [m for m in dict.fromkeys(metrics["compared"]) if m != BASE]
    if BASE not in overall.index.get_level_values(0) or not models:
        return False
    figure, axes = _make_figure(7, 0.8 + 0.34 * len(models))
    axes.axvline(0, color="#888888", linewidth=0.8)
    for k, model in enumerate(reversed(models)):
        differences = (overall[model] - overall[BASE]).dropna()
        axes.scatter(differences, [k] * len(differences), s=14, alpha=0.45, color=COLORS[0], linewidths=0)
        axes.scatter([differences.mean()], [k], marker="|", s=180, color=COLORS[1], linewidths=2)
    axes.set_ylim(-0.5, len(models) - 0.5)
    axes.set_yticks(range(len(models)), [format_model(m) for m in reversed(models)])
    axes.set_xlabel("difference of overall GAUC from Base (bar: mean)")
    figure.savefig(file, dpi=150)
    return True


def _make_figure(width: float, height: float) -> tuple[Figure, Any]:
    """Return a new figure and its axes; sizes in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()
