"""Compares the Poisson bootstrap with scikit-learn and plain loops, and tests the coverage of its intervals."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import roc_auc_score

from star_ctr.features.evaluation.poisson_bootstrap import compute_interval, draw_weights
from star_ctr.features.evaluation.ranked_auc import RankSums, compute_auc
from star_ctr.features.evaluation.user_auc import (
    UserSums,
    _number_users,
    _split_between_users,
    compute_gauc,
    count_wins,
)


def keys(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-(2**63), 2**63 - 1, n)


def test_weights_are_independent_poisson_draws() -> None:
    drawn = draw_weights(keys(20_000), 50, seed=3)
    assert (drawn[0] == 1).all()
    w = drawn[1:].astype(float)
    n = w.size
    for k in range(6):
        chance = math.exp(-1) / math.factorial(k)
        assert abs((w == k).mean() - chance) < 4 * math.sqrt(chance * (1 - chance) / n) + 2**-16
    between = np.corrcoef(w)[np.triu_indices(50, 1)]
    assert np.abs(between).max() < 5 / math.sqrt(20_000)
    assert np.abs(np.corrcoef(w[:, :-1].ravel(), w[:, 1:].ravel())[0, 1]) < 4 / math.sqrt(n)


def test_a_weight_depends_only_on_user_sample_and_seed() -> None:
    users = keys(100)
    drawn = draw_weights(users, 10, seed=1)
    order = np.random.default_rng(1).permutation(100)
    assert (draw_weights(users[order], 10, seed=1) == drawn[:, order]).all()
    assert (draw_weights(users, 7, seed=1) == drawn[:8]).all(), "more samples do not change the first ones"
    assert (draw_weights(users, 10, seed=2)[1:] != drawn[1:]).mean() > 0.5
    assert draw_weights(users, 0, seed=1).shape == (1, 100)


def test_weights_do_not_change_between_releases() -> None:
    """Compare with a computation in Python integers, so that a release does not change the intervals of a night."""
    mask = 2**64 - 1

    def mix(z: int) -> int:
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        return z ^ (z >> 31)

    def poisson(draw: int) -> int:
        chance, k, below = math.exp(-1), 0, math.exp(-1)
        while draw >= round(below * 65_536):
            k += 1
            chance /= k
            below += chance
        return k

    for key in (12345, -9_000_000_000_000_000_000):
        start = mix((key & mask) ^ mix(7))
        want = []
        for step in range(1, 4):
            bits = mix((start + step * 0x9E3779B97F4A7C15) & mask)
            want += [poisson((bits >> (16 * lane)) & 0xFFFF) for lane in range(4)]
        assert draw_weights(np.array([key]), 10, seed=7)[1:, 0].tolist() == want[:10]


@pytest.mark.parametrize("digits", [1, 3])
@pytest.mark.parametrize("block", [1, 7, 500])
def test_weighted_auc_matches_scikit_learn_for_any_block_size(digits: int, block: int) -> None:
    rng = np.random.default_rng(block)
    n = 500
    label, user = rng.random(n) < 0.3, rng.integers(0, 40, n)
    score = np.sort(np.round(rng.random(n), digits))
    weight = draw_weights(keys(40)[user], 8, seed=0)
    sums = RankSums(9)
    for start in range(0, n, block):
        part = slice(start, start + block)
        sums.add(score[part], label[part], weight[:, part])
    found = compute_auc(sums.positive, sums.negative, sums.wins)
    for column in range(9):
        want = roc_auc_score(label, score, sample_weight=weight[column].astype(float))
        assert found[column] == pytest.approx(want, abs=1e-12)
    assert sums.lowest == score[0]


def test_auc_of_one_class_is_undefined() -> None:
    sums = RankSums(1)
    sums.add(np.array([0.1, 0.2]), np.array([True, True]), np.ones((1, 2), np.uint8))
    assert np.isnan(compute_auc(sums.positive, sums.negative, sums.wins)).all()


def test_auc_of_users_matches_values_computed_by_hand() -> None:
    group = np.array([0, 0, 0, 1, 2, 2, 2, 2])
    score = np.array([0.1, 0.5, 0.5, 0.3, 0.2, 0.2, 0.4, 0.9])
    positive = np.array([False, True, False, True, True, False, False, True])
    starts, rows, clicked, wins = count_wins(group, score, positive)
    assert starts.tolist() == [0, 3, 4]
    assert rows.tolist() == [3, 1, 4]
    assert clicked.tolist() == [1, 1, 2]
    # one win and a tie; no pair; a tie and a loss, then two wins
    assert wins.tolist() == [3, 0, 5]


def test_gauc_of_sums_is_the_weighted_mean() -> None:
    rng = np.random.default_rng(0)
    rows, aucs, weight = rng.integers(2, 50, 300), rng.random(300), draw_weights(keys(300), 5, seed=0)
    sums = UserSums(6)
    for part in (slice(0, 100), slice(100, 300)):
        sums.add(rows[part], aucs[part], weight[:, part])
    want = [np.average(aucs, weights=rows * w) for w in weight]
    assert compute_gauc(sums.rows, sums.whole, sums.part) == pytest.approx(want, abs=1e-12)
    assert np.isnan(compute_gauc(*np.zeros((3, 1), np.int64))).all()


def test_an_interval_excludes_equal_shares_at_both_ends() -> None:
    assert compute_interval(np.arange(101) / 100, 0.9) == (pytest.approx(0.05), pytest.approx(0.95))
    assert compute_interval(np.array([]), 0.95) == (None, None)
    values = np.r_[np.linspace(0, 1, 96), np.full(4, np.nan)]
    assert compute_interval(values, 0.95) == (pytest.approx(0.025), pytest.approx(0.975))
    assert compute_interval(np.r_[values, np.nan, np.nan], 0.95) == (None, None), "too many samples are NaN"


@pytest.mark.parametrize("size", [1, 2, 5, 100])
def test_batches_are_cut_between_users(size: int) -> None:
    key = np.repeat(np.arange(12), [1, 7, 2, 1, 1, 13, 3, 1, 1, 2, 6, 2])
    rows = pa.RecordBatch.from_pydict({"key": key, "row": np.arange(len(key))})
    batches = [rows.slice(start, size) for start in range(0, len(key), size)]
    found = list(_split_between_users([rows.slice(0, 0), *batches]))
    assert np.concatenate([b["row"].to_numpy() for b in found]).tolist() == list(range(len(key)))
    seen = [set(b["key"].to_pylist()) for b in found]
    assert len(set.union(*seen)) == sum(len(s) for s in seen), "each user is in one block"
    assert max(b.num_rows for b in found) <= 2 * max(size, 13), "blocks stay small"


# --- coverage of the intervals, on simulated users with known true values


class World:
    """Users with different tastes and activity, and the scores of a model that knows part of their taste."""

    def __init__(self, rng: np.random.Generator, users: int) -> None:
        n = 2 + rng.poisson(8, users)
        self.user = np.repeat(np.arange(users), n)
        taste = np.repeat(rng.normal(size=users), n)
        signal = rng.normal(size=n.sum()) * np.repeat(rng.uniform(0.2, 1.5, users), n)
        self.label = rng.random(n.sum()) < 1 / (1 + np.exp(1.5 - signal - 0.7 * taste))
        self.score = signal + 0.4 * taste
        self.other = self.score + 0.3 * rng.normal(size=n.sum())
        self.key = rng.integers(-(2**63), 2**63 - 1, users)

    def compute_samples(self, score: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Compute AUC and GAUC of the data and of `count` samples, with the functions that Spark tasks use."""
        ranked, users = RankSums(1 + count), UserSums(1 + count)
        order = np.argsort(score)
        ranked.add(score[order], self.label[order], draw_weights(self.key[self.user[order]], count, 0))
        order = np.lexsort((score, self.user))
        starts, rows, clicked, wins = count_wins(self.user[order], score[order], self.label[order])
        both = (clicked > 0) & (clicked < rows)
        rows, clicked = rows[both], clicked[both]
        drawn = draw_weights(self.key[self.user[order][starts[both]]], count, 0)
        users.add(rows, wins[both] / (2 * clicked * (rows - clicked)), drawn)
        return compute_auc(ranked.positive, ranked.negative, ranked.wins), compute_gauc(
            users.rows, users.whole, users.part
        )


def test_intervals_contain_the_true_value_at_their_level() -> None:
    """Test 300 worlds of 500 users. The tolerance is three standard errors of a binomial share, 0.038."""
    worlds, level = 300, 0.95
    large = World(np.random.default_rng(99), 200_000)
    truths = [values[0] for values in large.compute_samples(large.score, 0)]
    differences = [t - values[0] for t, values in zip(truths, large.compute_samples(large.other, 0), strict=True)]
    hits = np.zeros(4)
    for k in range(worlds):
        world = World(np.random.default_rng(1000 + k), 500)
        samples, other_samples = (
            world.compute_samples(world.score, 200),
            world.compute_samples(world.other, 200),
        )
        for which in range(2):
            low, high = compute_interval(samples[which][1:], level)
            assert low is not None
            assert high is not None
            hits[which] += low <= truths[which] <= high
            low, high = compute_interval(samples[which][1:] - other_samples[which][1:], level)
            hits[2 + which] += low <= differences[which] <= high
    error = 3 * math.sqrt(level * (1 - level) / worlds)
    assert (np.abs(hits / worlds - level) < error).all(), hits / worlds


def test_intervals_match_drawing_users_with_replacement() -> None:
    """Compare the means and deviations of 2,000 samples each."""
    world = World(np.random.default_rng(5), 400)
    samples = world.compute_samples(world.score, 2_000)
    rng = np.random.default_rng(6)
    want_auc, want_gauc = [], []
    n, a = np.zeros(400), np.zeros(400)
    for u in range(400):
        label, score = world.label[world.user == u], world.score[world.user == u]
        if 0 < label.mean() < 1:
            n[u], a[u] = len(label), roc_auc_score(label, score)
    for _ in range(2_000):
        drawn = np.bincount(rng.integers(0, 400, 400), minlength=400)
        want_gauc.append((drawn * n * a).sum() / (drawn * n).sum())
        want_auc.append(roc_auc_score(world.label, world.score, sample_weight=drawn[world.user]))
    for found, want in ((samples[0], want_auc), (samples[1], want_gauc)):
        deviation = np.std(want)
        assert abs(found[1:].mean() - np.mean(want)) < 5 * deviation * math.sqrt(2 / 2_000)
        assert np.std(found[1:]) == pytest.approx(
            deviation, rel=0.1
        )  # standard error of a deviation: 1 / sqrt(2 x 2,000), for both
        for tail in (0.025, 0.975):
            assert abs(np.quantile(found[1:], tail) - np.quantile(want, tail)) < 0.3 * deviation


def test_a_paired_difference_is_narrower_than_an_unpaired_one() -> None:
    world = World(np.random.default_rng(1), 300)
    samples, other_samples = (
        world.compute_samples(world.score, 500),
        world.compute_samples(world.other, 500),
    )
    for a, b in zip(samples, other_samples, strict=True):
        paired, unpaired = np.std(a[1:] - b[1:]), math.hypot(np.std(a[1:]), np.std(b[1:]))
        assert paired < 0.7 * unpaired
    same = world.compute_samples(world.score, 500)
    assert all((a == b).all() for a, b in zip(samples, same, strict=True)), "a run does not differ from itself"


def test_users_with_one_equal_hash_are_distinguished_by_the_other() -> None:
    key = np.array([3, 3, 3, 3, 8, 8, 9])
    other = np.array([5, 1, 5, 1, 2, 2, 2])
    user = _number_users(key, other)
    assert [list(np.flatnonzero(user == u)) for u in dict.fromkeys(user.tolist())] == [[0, 2], [1, 3], [4, 5], [6]]
    assert list(_number_users(key, key)) == [0, 0, 0, 0, 1, 1, 2]
