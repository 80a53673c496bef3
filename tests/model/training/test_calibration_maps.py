"""Calibration maps: their fit compared with scipy, their bounds, and that the exported model applies them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import expit, logit

from star_ctr.conf.contracts.domains import OTHER_NAME, DomainIndex
from star_ctr.model.layers.calibration_map import CalibrationMap
from star_ctr.model.training.calibration_maps import (
    HALF_LIFE,
    SLOPES,
    CalibrationMaps,
    LogitMap,
    ScoreBins,
    _maximize_posterior,
    fit_maps,
)

METHODS = ("bias", "platt", "isotonic")


def make_bins(rows: int, shift: float, slope: float = 1.0, seed: int = 0, nights: int = 3) -> ScoreBins:
    """Return bins of scores whose true logit is `shift + slope * logit`."""
    rng = np.random.default_rng(seed)
    at = np.tile(np.linspace(-6, -0.5, 23), nights)
    size = np.full(len(at), rows // len(at), float)
    clicks = rng.binomial(size.astype(int), expit(shift + slope * at)).astype(float)
    return ScoreBins(np.repeat(np.arange(nights, dtype=float), 23), at, size, clicks)


def maximize(parts: list[ScoreBins], center: float) -> tuple[float, float]:
    """Return the shift with the highest posterior, and its standard error from the curvature, with scipy."""
    ages = np.concatenate([p.age for p in parts])
    x, rows, clicks = (np.concatenate([getattr(p, n) for p in parts]) for n in ("logit", "rows", "clicks"))

    def minus_log_posterior(shift: float) -> float:
        total = 0.5 * (shift - center) ** 2
        for age in np.unique(ages):
            one = ages == age
            information = (rows[one] * expit(x[one]) * expit(-x[one])).sum()
            weight = 0.5 ** (age / HALF_LIFE) / (1 + 0.05**2 * information)
            p = expit(x[one] + shift)
            total -= weight * (clicks[one] * np.log(p) + (rows[one] - clicks[one]) * np.log1p(-p)).sum()
        return float(total)

    best = minimize(lambda s: minus_log_posterior(s[0]), [0.0]).x[0]
    h = 1e-3
    curvature = sum(minus_log_posterior(best + d) for d in (-h, h)) - 2 * minus_log_posterior(best)
    return best, (curvature / h**2) ** -0.5


def test_a_shift_is_the_shrunk_maximum_of_the_posterior() -> None:
    bins = {"a": make_bins(60_000, 0.3), "b": make_bins(3_000, -0.4, seed=1), "c": make_bins(60_000, 0.22, seed=2)}
    maps = fit_maps("bias", bins)
    best, error = maximize(list(bins.values()), 0.0)
    shared = best * (1 - 2 * error**2 / best**2)
    assert maps[OTHER_NAME].offsets == pytest.approx([shared], abs=1e-4)
    for domain, part in bins.items():
        best, error = maximize([part], shared)
        difference = best - shared
        want = shared + difference * max(0.0, 1 - 2 * error**2 / difference**2)
        assert maps[domain].offsets == pytest.approx([want], abs=1e-4)
        assert maps[domain].slopes == [0.0, 0.0]
    assert maps["c"].offsets == maps[OTHER_NAME].offsets, "not different from all domains"
    assert maps["b"].offsets[0] < 0 < maps["a"].offsets[0]


def test_many_nights_find_the_true_map() -> None:
    bins = {"a": make_bins(9_000_000, 0.25, 0.8, nights=30)}
    x = np.linspace(-5, -1, 9)
    want = 0.25 + 0.8 * x
    assert fit_maps("platt", bins)["a"].apply(x) == pytest.approx(want, abs=0.12)
    assert fit_maps("isotonic", bins)["a"].apply(x) == pytest.approx(want, abs=0.3)
    bias = fit_maps("bias", bins)["a"]
    p, n = expit(bias.apply(bins["a"].logit)), bins["a"].rows
    assert (p * n).sum() == pytest.approx(bins["a"].clicks.sum(), rel=0.05)


@pytest.mark.parametrize("slope", [0.7, 1.3])
def test_an_isotonic_map_keeps_the_sum_of_predictions(slope: float) -> None:
    bins = make_bins(300_000, 0.4 * (1 - slope), slope)
    shift = fit_maps("bias", {"a": bins})["a"].apply(bins.logit)
    mapped = fit_maps("isotonic", {"a": bins})["a"].apply(bins.logit)
    weight = bins.rows * 2 ** (-bins.age / HALF_LIFE)
    assert weight @ expit(mapped) == pytest.approx(weight @ expit(shift), rel=1e-6)


def test_a_night_with_many_clicks_does_not_decide_alone() -> None:
    """However many rows it has: the CTR of a day varies by itself."""
    one, ten = (fit_maps("bias", {"a": make_bins(50_000_000, 0.1, nights=n)})["a"].offsets[0] for n in (1, 10))
    assert 0.03 < one < 0.06 < 0.08 < ten < 0.1


def test_a_calibrated_model_gets_no_map() -> None:
    shifts = [fit_maps("bias", {"a": make_bins(60_000, 0.0, seed=k)})["a"].offsets[0] for k in range(40)]
    assert sum(shift == 0 for shift in shifts) > 20
    assert max(map(abs, shifts)) < 0.1


def test_a_domain_with_few_clicks_follows_the_others() -> None:
    maps = fit_maps("bias", {"large": make_bins(500_000, 0.3), "small": make_bins(200, 0.1)})
    assert maps["small"] == maps[OTHER_NAME]


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=40, deadline=None, derandomize=True)
@given(data=st.data())
def test_maps_are_increasing_with_bounded_slope_and_invertible(method: str, data: st.DataObject) -> None:
    bins = {}
    for domain in ("a", "b", OTHER_NAME)[: data.draw(st.integers(1, 3))]:
        n = data.draw(st.integers(1, 12))
        rows = np.array(data.draw(st.lists(st.integers(1, 10_000), min_size=n, max_size=n)), float)
        share = np.array(data.draw(st.lists(st.floats(0, 1), min_size=n, max_size=n)))
        x = np.array(data.draw(st.lists(st.floats(-16, 16), min_size=n, max_size=n)))
        age = np.array(data.draw(st.lists(st.integers(0, 6), min_size=n, max_size=n)), float)
        bins[domain] = ScoreBins(age, x, rows, np.floor(rows * share))
    maps = CalibrationMaps(method=method, nights=[], rows=0, clicks=0, maps=fit_maps(method, bins))
    x = np.sort(np.concatenate([np.linspace(-17, 17, 400), *(np.array(m.knots) for m in maps.maps.values())]))
    x = x[np.concatenate([[True], np.diff(x) > 1e-6])]
    for domain in ("a", "b", OTHER_NAME, "never seen"):
        y = maps.get_map(domain).apply(x)
        slope = np.diff(y) / np.diff(x)
        assert np.isfinite(y).all()
        assert (slope > SLOPES[0] - 1e-3).all(), "strictly increasing"
        assert (slope < SLOPES[1] + 1e-3).all()
        np.testing.assert_allclose(maps.get_map(domain).invert(y), x, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_the_module_applies_the_map_of_each_row(method: str) -> None:
    bins = {"a": make_bins(100_000, 0.3, 0.7), "b": make_bins(100_000, -0.3, 1.2, seed=1)}
    maps = CalibrationMaps(method=method, nights=[], rows=0, clicks=0, maps=fit_maps(method, bins))
    index = DomainIndex(["b", "new", "a"])
    x = torch.linspace(-20, 20, 1001)
    by_number = [maps.get_map(name) for name in index.names]
    module = CalibrationMap.from_maps([(m.knots, m.offsets, m.slopes) for m in by_number])
    found = {name: module(x, torch.full((1001,), index.get_number(name))) for name in (*index.names,)}
    for name, domain in (("a", "a"), ("b", "b"), ("new", OTHER_NAME), (OTHER_NAME, OTHER_NAME)):
        np.testing.assert_allclose(found[name].numpy(), maps.get_map(domain).apply(x.double().numpy()), atol=2e-5)
    mixed = module(x[:4], torch.tensor([3, 1, 2, 0], dtype=torch.int32))
    assert mixed.tolist() == [found[name][k] for k, name in enumerate(("a", "b", "new", OTHER_NAME))]


def test_a_line_is_inverted_exactly() -> None:
    line = LogitMap(knots=[0.0], offsets=[0.2], slopes=[-0.25, -0.25])
    p = np.array([0.001, 0.03, 0.9])
    assert line.apply(logit(p)) == pytest.approx(0.2 + 0.75 * logit(p))
    assert line.invert(line.apply(logit(p))) == pytest.approx(logit(p))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.integers(0, 1000),
    st.floats(-2, 2),
    st.floats(0.4, 2.5),
    st.integers(500, 200_000),
    st.floats(-9, 0),
    st.floats(0, 3),
)
def test_the_slope_of_all_domains_matches_scipy(
    seed: int, shift: float, slope: float, rows: int, middle: float, spread: float
) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(middle, spread, 25)
    size = np.full(25, max(1, rows // 25), float)
    clicks = rng.binomial(size.astype(int), expit(shift + slope * x)).astype(float)
    bins = ScoreBins(np.zeros(25), x, size, clicks)
    weight = bins.compute_weights()
    found, _ = _maximize_posterior(bins, np.zeros(2), [0, 1])

    def loss(v: np.ndarray) -> float:
        z = x + v[0] + v[1] * x
        return float((weight * (size * np.logaddexp(0, z) - clicks * z)).sum() + 0.5 * (v**2).sum())

    best = min(loss(minimize(loss, start, method="Nelder-Mead", tol=1e-9).x) for start in (np.zeros(2), found))
    assert loss(found) <= best + 1e-6 * max(1, abs(best))


def test_infinite_logits_stay_ordered() -> None:
    module = CalibrationMap.from_maps([([0.0], [0.3], [0.0, 0.0])])
    found = module(torch.tensor([-torch.inf, 0.0, torch.inf]), torch.zeros(3, dtype=torch.int32))
    assert torch.sigmoid(found).tolist() == pytest.approx([0.0, 1 / (1 + np.exp(-0.3)), 1.0])
