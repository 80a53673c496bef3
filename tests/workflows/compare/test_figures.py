"""The figures of a comparison, drawn from random metrics."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from star_ctr.conf.settings.compare import Comparison
from star_ctr.workflows.compare import report
from star_ctr.workflows.compare.run import Results

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


def test_settings_of_the_report_can_be_pasted_into_a_shell() -> None:
    comparison = Comparison.model_validate({"settings": {"base": {"model.layers": [8, 4]}}})
    text = report._format_settings(Results("x", comparison, [], {}, {"base": []}, {}))
    options = shlex.split(text[text.index("--set") :].replace("`", " "))
    assert "model.layers=[8, 4]" in options
    assert 'model.name="base"' in options


def test_one_seed_has_no_spread() -> None:
    assert report._format_spread(float("nan")) == ""
    assert report._format_spread(0.00123) == " ± 0.0012"
