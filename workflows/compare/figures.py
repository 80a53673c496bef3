"""The paper's figures from the metrics of a comparison, and one more: what each night and seed gave against Base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from star_ctr.conf.contracts.encoded_row import OVERALL
from star_ctr.conf.settings.compare import WITHOUT_AUX
from star_ctr.workflows.compare.tables import BASE, compute_deviations, compute_means, format_model

COLOURS = ("#4477AA", "#EE6677", "#228833", "#CCBB44", "#66CCEE", "#AA3377", "#BBBBBB")  # told apart by all eyes
mpl.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "star-ctr"})


def draw_auxiliary(found: pd.DataFrame, file: Path) -> bool:
    """Figure 6: overall GAUC with and without the auxiliary network; False where no model has both."""
    names = list(dict.fromkeys(found["compared"]))
    both = [m for m in names if m + WITHOUT_AUX in names]
    if not both:
        return False
    overall, spread = compute_means(found, "gauc").loc[OVERALL], compute_deviations(found, "gauc")
    figure, axes = _make_figure(7, 3.6)
    for k, (suffix, label) in enumerate((("", "with auxiliary network"), (WITHOUT_AUX, "without"))):
        places = [i + 0.38 * (k - 0.5) for i in range(len(both))]
        names = [m + suffix for m in both]
        axes.bar(places, overall[names], 0.36, yerr=spread[names], color=COLOURS[k], label=label, capsize=2)
    axes.set_xticks(range(len(both)), [format_model(m) for m in both], rotation=20, ha="right")
    shown = [m + s for m in both for s in ("", WITHOUT_AUX)]
    values, spreads = overall[shown], spread[shown].fillna(0)
    low, high = (values - spreads).min(), (values + spreads).max()
    margin = max(0.3 * (high - low), 1e-3)
    axes.set_ylim(low - margin, high + margin)
    axes.set_ylabel("overall GAUC ± deviation over seeds")
    axes.legend(frameon=False, ncols=2, loc="lower left", bbox_to_anchor=(0, 1))
    figure.savefig(file, dpi=150)
    return True


def draw_calibration(found: pd.DataFrame, file: Path, models: tuple[str, ...] = (BASE, "star")) -> bool:
    """Figure 7: predicted over actual clicks, a circle a domain (its area by its clicks); False without both models."""
    shown = found[(found["domain"] != OVERALL) & found["pcoc"].notna() & found["compared"].isin(models)]
    if set(shown["compared"]) != set(models):
        return False
    # Pooled over nights and seeds: a night of few clicks tells little.
    sums = shown.assign(predicted=shown["pcoc"] * shown["clicks"]).groupby(["compared", "domain"])
    pooled = sums[["predicted", "clicks"]].sum()
    pooled["pcoc"] = pooled["predicted"] / pooled["clicks"]
    figure, axes = _make_figure(5, 3.8)
    axes.axhline(1, color="#888888", linewidth=0.8)
    for k, model in enumerate(models):
        of_model = pooled.loc[[model]].sort_values("clicks", ascending=False)
        size = 25 + 500 * of_model["clicks"] / pooled["clicks"].max()
        # Beside each other in a fixed order, so that circles of one PCOC can be told apart.
        places = [k + 0.3 * ((i * 0.618) % 1 - 0.5) for i in range(len(of_model))]
        axes.scatter(places, of_model["pcoc"], s=size, facecolors="none", edgecolors=COLOURS[k], linewidths=1.5)
        for place, domain, value in zip(
            places, of_model.index.get_level_values("domain"), of_model["pcoc"], strict=True
        ):
            axes.annotate(domain, (place, value), fontsize=7, ha="center", va="center")
    axes.set_xticks(range(len(models)), [format_model(m) for m in models])
    axes.set_xlim(-0.5, len(models) - 0.5)
    axes.set_ylabel("PCOC, a circle a domain")
    figure.savefig(file, dpi=150)
    return True


def draw_differences(found: pd.DataFrame, file: Path) -> bool:
    """Overall GAUC less Base's on the same night and seed, a dot each, and their mean; False without Base."""
    overall = found[found["domain"] == OVERALL].set_index(["compared", "ds", "seed"])["gauc"]
    models = [m for m in dict.fromkeys(found["compared"]) if m != BASE]
    if BASE not in overall.index.get_level_values(0) or not models:
        return False
    figure, axes = _make_figure(7, 0.8 + 0.34 * len(models))
    axes.axvline(0, color="#888888", linewidth=0.8)
    for k, model in enumerate(reversed(models)):
        gain = (overall[model] - overall[BASE]).dropna()
        axes.scatter(gain, [k] * len(gain), s=14, alpha=0.45, color=COLOURS[0], linewidths=0)
        axes.scatter([gain.mean()], [k], marker="|", s=180, color=COLOURS[1], linewidths=2)
    axes.set_ylim(-0.5, len(models) - 0.5)
    axes.set_yticks(range(len(models)), [format_model(m) for m in reversed(models)])
    axes.set_xlabel("overall GAUC less Base's (bar: mean)")
    figure.savefig(file, dpi=150)
    return True


def _make_figure(width: float, height: float) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()
