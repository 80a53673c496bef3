"""Mean differences over seeds: compared with formulas in plain Python, and their error rate on simulated models."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import log_loss

from star_ctr.features.evaluation.click_sums import ClickSums, compute_pcoc
from star_ctr.features.evaluation.loss_sums import LossSums, compute_log_loss, compute_row_losses
from star_ctr.features.evaluation.paired_differences import compute_mean_difference
from star_ctr.features.evaluation.poisson_bootstrap import draw_weights


@pytest.mark.parametrize("block", [1, 7, 500])
def test_weighted_log_loss_matches_scikit_learn_for_any_block_size(block: int) -> None:
    rng = np.random.default_rng(block)
    score, label, user = rng.random(500), rng.random(500) < 0.3, rng.integers(0, 40, 500)
    score[:2] = 0, 1  # clipped, not infinite
    weight = draw_weights(rng.integers(-(2**63), 2**63 - 1, 40)[user], 8, seed=0)
    sums = LossSums(9)
    for start in range(0, 500, block):
        part = slice(start, start + block)
        sums.add(compute_row_losses(score[part], label[part]), weight[:, part])
    found = compute_log_loss(sums.rows, sums.loss)
    for column in range(9):
        clipped = np.clip(score, 1e-15, 1 - 1e-15)
        want = log_loss(label, clipped, sample_weight=weight[column].astype(float))
        assert found[column] == pytest.approx(want, abs=1e-8)
    assert np.isnan(compute_log_loss(*(np.zeros(2, np.int64) for _ in range(2)))).all()


def test_the_interval_adds_the_variances_of_users_and_seeds() -> None:
    rng = np.random.default_rng(0)
    differences = 0.01 + 0.02 * rng.normal(size=(3, 101)) + 0.01 * rng.normal(size=(3, 1))
    found = compute_mean_difference(differences, users=60.0, level=0.9)
    assert found is not None
    means = [sum(column) / 3 for column in zip(*differences.tolist(), strict=True)]
    users = statistics.variance(means[1:])
    seeds = statistics.variance(differences[:, 0].tolist()) / 3
    dof = (users + seeds) ** 2 / (users**2 / 59 + seeds**2 / 2)
    std = math.sqrt(users + seeds)
    assert found.value == pytest.approx(means[0])
    assert found.low == pytest.approx(means[0] - stats.t.ppf(0.95, dof) * std)
    assert found.high == pytest.approx(means[0] + stats.t.ppf(0.95, dof) * std)
    assert found.p == pytest.approx(2 * stats.t.cdf(-abs(means[0]) / std, dof))


def test_one_seed_has_an_interval_over_users_only() -> None:
    differences = np.random.default_rng(0).normal(size=(1, 201))
    found = compute_mean_difference(differences, users=1e6, level=0.95)
    assert found is not None
    assert found.low is not None
    assert found.value - found.low == pytest.approx(stats.t.ppf(0.975, 199) * differences[0, 1:].std(ddof=1))


def test_undefined_and_constant_differences() -> None:
    assert compute_mean_difference(np.array([[np.nan, 0.1, 0.2], [0.1, 0.1, 0.2]]), 50, 0.95) is None
    few = compute_mean_difference(np.full((2, 11), 0.25), users=1.5, level=0.95)
    assert few is not None
    assert (few.value, few.low, few.p) == (0.25, None, None)
    same = compute_mean_difference(np.zeros((2, 11)), users=50, level=0.95)
    assert same is not None
    assert (same.low, same.high, same.p) == (0.0, 0.0, 1.0)


@pytest.mark.parametrize(
    ("between_users", "between_seeds", "of_both", "limit"), [(1, 0, 1, 0.05), (1, 1, 1, 0.05), (0.1, 2, 0.1, 0.09)]
)
def test_a_difference_of_zero_is_rarely_significant(
    between_users: float, between_seeds: float, of_both: float, limit: float
) -> None:
    """Users and seeds differ at random. If seeds differ most, a bootstrap over users alone would reject far too often.

    Then the test is slightly too sensitive, because three seeds say little about their variance.
    """
    rng = np.random.default_rng(1)
    users, seeds, worlds = 200, 3, 600
    rejected = by_users_alone = 0
    for _ in range(worlds):
        by_user = between_users * rng.normal(size=users)
        by_seed = between_seeds * rng.normal(size=(seeds, 1)) / math.sqrt(users)
        values = by_user + by_seed + of_both * rng.normal(size=(seeds, users))
        weights = np.vstack([np.ones(users), rng.poisson(1, (100, users))])
        differences = values @ weights.T / weights.sum(axis=1)
        found = compute_mean_difference(differences, users, 0.95)
        assert found is not None
        assert found.p is not None
        rejected += found.p < 0.05
        by_users_alone += abs(found.value) > 1.96 * differences.mean(axis=0)[1:].std()
    assert rejected / worlds < limit
    if between_seeds > between_users:
        assert by_users_alone / worlds > 0.5


@pytest.mark.parametrize("block", [1, 7, 500])
def test_weighted_pcoc_matches_a_loop_for_any_block_size(block: int) -> None:
    rng = np.random.default_rng(block)
    score, label, user = rng.random(500), rng.random(500) < 0.3, rng.integers(0, 40, 500)
    score[:2], label[:2] = 0, (False, True)  # a score of 0 keeps its label
    weight = draw_weights(rng.integers(-(2**63), 2**63 - 1, 40)[user], 8, seed=0)
    sums = ClickSums(9)
    for start in range(0, 500, block):
        part = slice(start, start + block)
        sums.add(np.where(label[part], score[part], -score[part]), weight[:, part])
    for column, found in enumerate(compute_pcoc(sums.predicted, sums.clicks)):
        drawn = weight[column].tolist()
        predicted = sum(w * p for w, p in zip(drawn, score.tolist(), strict=True))
        assert found == pytest.approx(predicted / sum(w for w, y in zip(drawn, label, strict=True) if y), abs=1e-8)
    assert np.isnan(compute_pcoc(*(np.zeros(2, np.int64) for _ in range(2)))).all()
