"""Plots of a search: gain over the trials, gain by setting, and what remains of the gain with other seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from star_ctr.workflows.compare.figures import COLORS

_COLUMNS = 3
NAMES = {"gauc": "GAUC", "auc": "AUC", "log_loss": "log loss"}
"""Display names of the objectives."""


def draw(trials: pd.DataFrame, found: Mapping[str, Any], folder: Path) -> dict[str, str]:
    """Draw all plots that the result has data for.

    Args:
        trials: One row per trial (see `report.make_trials_frame`).
        found: The result as JSON values.
        folder: The folder for the PNG files.

    Returns:
        The file name of each plot, by title.
    """
    plots: dict[str, tuple[str, Callable[[pd.DataFrame, Mapping[str, Any], Path], bool]]] = {
        "Gain of the trials in the search": ("trials.png", draw_trials),
        "Gain by setting": ("settings.png", draw_settings),
        "What remains of the gain": ("survival.png", draw_survival),
    }
    drawn = {}
    for title, (name, action) in plots.items():
        (folder / name).unlink(missing_ok=True)
        if action(trials, found, folder / name):
            drawn[title] = name
    return drawn


def draw_trials(trials: pd.DataFrame, found: Mapping[str, Any], file: Path) -> bool:
    """Draw the gain of each trial, and the best gain so far of the trials that were trained on all pairs.

    Args:
        trials: One row per trial.
        found: The result as JSON values.
        file: The PNG file to write.

    Returns:
        Whether the plot was written.
    """
    shown = trials[trials["gain"].notna()]
    if len(shown) < 2:
        return False
    figure = Figure(figsize=(7, 3.4), layout="constrained")
    axes = figure.subplots()
    axes.axhline(0, color="#888888", linewidth=0.8)
    for k, (state, part) in enumerate(shown.groupby("state")):
        axes.scatter(part["trial"], part["gain"], s=18, color=COLORS[2 - 2 * k], label=state, alpha=0.8, linewidths=0)
    best = shown[shown["state"] == "complete"].set_index("trial")["gain"].cummax()
    axes.step(best.index, best, where="post", color=COLORS[1], linewidth=1.2, label="best so far")
    axes.set_xlabel("trial")
    axes.set_ylabel(_label(found))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, ncols=3, loc="lower left", bbox_to_anchor=(0, 1))
    axes.set_ylim(_choose_bottom(shown["gain"]), None)
    figure.savefig(file, dpi=150)
    return True


def draw_settings(trials: pd.DataFrame, found: Mapping[str, Any], file: Path) -> bool:
    """Draw the gain of each trial by the value of each setting; large dots are trials with more runs.

    Args:
        trials: One row per trial.
        found: The result as JSON values.
        file: The PNG file to write.

    Returns:
        Whether the plot was written.
    """
    shown = trials[trials["gain"].notna()]
    keys = [c for c in trials.columns[6:] if shown[c].nunique() > 1]
    if not keys:
        return False
    rows = math.ceil(len(keys) / _COLUMNS)
    figure = Figure(figsize=(9, 2.2 * rows), layout="constrained")
    axes = figure.subplots(rows, _COLUMNS, squeeze=False, sharey=True).ravel()
    bottom = _choose_bottom(shown["gain"])
    for axis, key in zip(axes, keys, strict=False):
        values = shown[key]
        numbers = pd.to_numeric(values, errors="coerce")
        if numbers.notna().all() and values.nunique() > 6:
            is_log = bool((numbers > 0).all())
            axis.set_xscale("log" if is_log else "linear")
            low_x, high_x = float(numbers.min()), float(numbers.max())
            ticks = [low_x, math.sqrt(low_x * high_x) if is_log else (low_x + high_x) / 2, high_x]
            axis.set_xticks(ticks, [f"{tick:.2g}" for tick in ticks])
            axis.minorticks_off()
            x: Any = numbers
        else:
            order = sorted(values.unique()) if numbers.notna().all() else sorted(values.unique(), key=_sort_key)
            x = values.map({v: k for k, v in enumerate(order)})
            axis.set_xticks(range(len(order)), [str(v) for v in order], fontsize=7)
        axis.axhline(0, color="#888888", linewidth=0.8)
        axis.scatter(x, shown["gain"], s=6 * shown["runs"], color=COLORS[0], alpha=0.6, linewidths=0)
        axis.set_title(key.removeprefix("trainer.").removeprefix("optimizer."), fontsize=8, loc="left")
        axis.tick_params(labelsize=7)
        axis.set_ylim(bottom, None)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[len(keys) :]:
        axis.set_visible(False)
    figure.savefig(file, dpi=150)
    return True


def draw_survival(trials: pd.DataFrame, found: Mapping[str, Any], file: Path) -> bool:
    """Draw the gain of each candidate in the search, with other seeds, and on the unseen night.

    Args:
        trials: One row per trial.
        found: The result as JSON values.
        file: The PNG file to write.

    Returns:
        Whether the plot was written.
    """
    candidates = [c for c in found["candidates"] if c["gain"] is not None]
    if not candidates:
        return False
    figure = Figure(figsize=(7, 1.2 + 0.7 * len(candidates)), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color="#888888", linewidth=0.8)
    for k, c in enumerate(candidates):
        axes.scatter([c["search_gain"]], [k - 0.2], color=COLORS[6], s=30, label=None if k else "in the search")
        label = None if k else "with other seeds (± standard error)"
        axes.errorbar([c["gain"]], [k], xerr=[c["error"] or 0.0], fmt="o", color=COLORS[0], capsize=2, label=label)
        unseen = found["unseen"]
        if unseen and c["values"] == found["proposed"]:
            bounds = None
            if unseen["low"] is not None:
                bounds = [[unseen["gain"] - unseen["low"]], [unseen["high"] - unseen["gain"]]]
            text = f"on the unseen night ({unseen['level']:.0%} interval)"
            axes.errorbar([unseen["gain"]], [k + 0.2], xerr=bounds, fmt="s", color=COLORS[1], capsize=2, label=text)
    axes.set_yticks(range(len(candidates)), [f"trial {c['trial']}" for c in candidates])
    axes.set_ylim(len(candidates) - 0.5, -0.5)
    axes.set_xlabel(_label(found))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), ncols=3)
    figure.savefig(file, dpi=150)
    return True


def _choose_bottom(gains: pd.Series) -> float:
    """Return the lower end of the gain axis: a few trials may be much worse than the others and are cut off."""
    low = max(float(gains.min()), -4 * max(float(gains.abs().median()), 1e-4))
    return low - 0.1 * abs(low)


def _sort_key(value: Any) -> tuple[int, str]:
    """Sort texts by length first, so that small networks come before large ones."""
    return len(str(value)), str(value)


def _label(found: Mapping[str, Any]) -> str:
    return f"gain in {NAMES[found['objective']]}"
