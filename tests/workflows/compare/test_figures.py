"""The figures of a comparison, drawn from random metrics."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from star_ctr.workflows.compare import report

RNG = np.random.default_rng(0)


def make_metrics(*models: str) -> pd.DataFrame:
    """Make metrics of two nights, two seeds and two domains."""
    keys = [(m, ds, s, d) for m in models for ds in ("1", "2") for s in (0, 1) for d in ("a", "b", "overall")]
    found = pd.DataFrame(keys, columns=["compared", "ds", "seed", "domain"])
    return found.assign(gauc=RNG.uniform(0.5, 0.7, len(found)), pcoc=RNG.uniform(0.8, 1.2, len(found)), clicks=100)


@pytest.mark.parametrize(
    ("models", "figures"),
    [
        (["star"], []),
        (["base", "shared_bottom"], ["differences.png"]),
        (["base", "star"], ["differences.png", "figure7.png"]),
        (["base", "star", "star_noaux"], ["differences.png", "figure6.png", "figure7.png"]),
    ],
)
def test_the_figures_depend_on_the_compared_models(tmp_path: Path, models: list[str], figures: list[str]) -> None:
    parts = report._draw_figures(make_metrics(*models), tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == figures
    assert len(parts) == len(figures)
    assert all(any(f"({name})" in part for part in parts) for name in figures)
