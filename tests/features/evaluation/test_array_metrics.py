"""Metrics in memory, compared with scikit-learn and with loops over users and bootstrap samples."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from star_ctr.features.evaluation import array_metrics
from star_ctr.features.evaluation.array_metrics import (
    compute_array_metrics,
    compute_auc_samples,
    compute_gauc_samples,
    hash_users,
)
from star_ctr.features.evaluation.poisson_bootstrap import draw_weights


def make_rows(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Make users, labels and scores with many ties; some users have one class only."""
    source = np.random.default_rng(seed)
    user = np.array([f"u{k}" for k in source.zipf(1.6, n) % 40])
    score = np.round(source.random(n), 2)
    label = (source.random(n) < score * 0.6).astype(float)
    return user, label, score


def compute_gauc_by_hand(user: np.ndarray, label: np.ndarray, score: np.ndarray, weight: dict[str, int]) -> float:
    total = sums = 0.0
    for u in sorted(set(user)):
        own = user == u
        if 0 < label[own].sum() < own.sum():
            n = weight[u] * own.sum()
            total, sums = total + n, sums + n * roc_auc_score(label[own], score[own])
    return sums / total


def test_metrics_equal_those_of_scikit_learn() -> None:
    user, label, score = make_rows(3000)
    found = compute_array_metrics(user, label, score)
    assert found.auc == pytest.approx(roc_auc_score(label, score), abs=1e-12)
    assert found.gauc == pytest.approx(compute_gauc_by_hand(user, label, score, dict.fromkeys(user, 1)), abs=1e-9)
    assert found.log_loss == pytest.approx(log_loss(label, np.clip(score, 1e-15, 1 - 1e-15)), abs=1e-12)
    assert (found.rows, found.clicks) == (3000, int(label.sum()))
    assert found.predicted == pytest.approx(score.sum())


def test_the_order_of_rows_does_not_matter() -> None:
    user, label, score = make_rows(500)
    order = np.random.default_rng(1).permutation(500)
    samples = {"samples": 5, "seed": 3}
    shuffled = compute_gauc_samples(user[order], label[order], score[order], **samples)
    assert (compute_gauc_samples(user, label, score, **samples) == shuffled).all()


def test_undefined_metrics_are_none() -> None:
    user, score = np.array(["a", "b"]), np.array([0.1, 0.2])
    found = compute_array_metrics(user, np.array([0.0, 1.0]), score)
    assert found.auc == 1.0
    assert found.gauc is None, "no user has both classes"
    assert compute_array_metrics(user, np.array([0.0, 0.0]), score).auc is None


def test_bootstrap_samples_weight_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(array_metrics, "_BLOCK", 700)  # several blocks of rows
    user, label, score = make_rows(800)
    users, number = np.unique(user, return_inverse=True)
    keys = hash_users(users)
    weights = draw_weights(keys, 6, 2)
    auc = compute_auc_samples(label, score, keys[number], 6, 2)
    gauc = compute_gauc_samples(user, label, score, 6, 2)
    for k in range(7):
        assert auc[k] == pytest.approx(roc_auc_score(label, score, sample_weight=weights[k][number]), abs=1e-12)
        by_hand = compute_gauc_by_hand(user, label, score, dict(zip(users, weights[k].astype(int), strict=True)))
        assert gauc[k] == pytest.approx(by_hand, abs=1e-9)
    assert (weights[0] == 1).all()
