"""AUC, GAUC (eq. 9) and log loss of scores in memory, from the same sums as the distributed metrics.

Shapes: n rows, C columns of weights (the data and the bootstrap samples).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from star_ctr.features.evaluation.loss_sums import compute_row_losses
from star_ctr.features.evaluation.poisson_bootstrap import Bools, Floats, Ints, draw_weights
from star_ctr.features.evaluation.ranked_auc import RankSums
from star_ctr.features.evaluation.ranked_auc import compute_auc as compute_auc_from_sums
from star_ctr.features.evaluation.user_auc import UserSums, count_wins
from star_ctr.features.evaluation.user_auc import compute_gauc as compute_gauc_from_sums

_BLOCK = 1 << 20
"""Number of weights in a block of rows."""


class ArrayMetrics(NamedTuple):
    """The metrics of a set of scores; undefined metrics are None.

    Attributes:
        rows: Number of rows.
        clicks: Number of rows with label 1.
        predicted: Sum of the scores.
        auc: AUC; None if there is only one class.
        gauc: Impression-weighted user AUC; None if no user has both classes.
        log_loss: Mean log loss.
    """

    rows: int
    clicks: int
    predicted: float
    auc: float | None
    gauc: float | None
    log_loss: float


def compute_array_metrics(user: npt.NDArray[np.generic], label: Floats, score: Floats) -> ArrayMetrics:
    """Compute the metrics of scores.

    Args:
        user: (n,) user of each row, of any sortable type.
        label: (n,) labels, 0.0 or 1.0; n > 0.
        score: (n,) scores in [0, 1].

    Returns:
        The metrics.
    """
    auc = float(compute_auc_samples(label, score)[0])
    gauc = float(compute_gauc_samples(user, label, score)[0])
    return ArrayMetrics(
        rows=len(label),
        clicks=int(label.sum()),
        predicted=float(score.sum()),
        auc=None if np.isnan(auc) else auc,
        gauc=None if np.isnan(gauc) else gauc,
        log_loss=float(compute_row_losses(score, label > 0).mean()),
    )


def compute_auc_samples(
    label: Floats, score: Floats, keys: Ints | None = None, samples: int = 0, seed: int = 0
) -> Floats:
    """Compute the AUC of the data and of each bootstrap sample.

    Args:
        label: (n,) labels.
        score: (n,) scores.
        keys: (n,) hash of each row's user; needed with `samples`.
        samples: Number of bootstrap samples.
        seed: Seed of the bootstrap.

    Returns:
        (C,) AUC of the data, followed by that of each sample; NaN if a class is missing.
    """
    order = np.argsort(score, kind="stable")
    score, positive = score[order], label[order] > 0
    keys = np.zeros(len(score), np.int64) if keys is None else keys[order]
    sums, block = RankSums(1 + samples), max(_BLOCK // (1 + samples), 1)
    for start in range(0, len(score), block):
        part = slice(start, start + block)
        sums.add(score[part], positive[part], draw_weights(keys[part], samples, seed))
    return compute_auc_from_sums(sums.positive, sums.negative, sums.wins)


def compute_gauc_samples(
    user: npt.NDArray[np.generic], label: Floats, score: Floats, samples: int = 0, seed: int = 0
) -> Floats:
    """Compute the GAUC (eq. 9) of the data and of each bootstrap sample.

    Args:
        user: (n,) user of each row.
        label: (n,) labels.
        score: (n,) scores.
        samples: Number of bootstrap samples. Their weights depend only on the users, so that models can be paired.
        seed: Seed of the bootstrap.

    Returns:
        (C,) GAUC of the data, followed by that of each sample; NaN if no user has both classes.
    """
    users, number = np.unique(user, return_inverse=True)
    order = np.lexsort((score, number))
    positive: Bools = label[order] > 0
    starts, seen, clicked, wins = count_wins(number[order], score[order], positive)
    both = np.flatnonzero((clicked > 0) & (clicked < seen))
    auc = wins[both] / (2.0 * clicked[both] * (seen[both] - clicked[both]))
    keys = hash_users(users[number[order][starts[both]]])
    sums = UserSums(1 + samples)
    sums.add(seen[both], auc, draw_weights(keys, samples, seed))
    return compute_gauc_from_sums(sums.rows, sums.whole, sums.part)


def hash_users(users: Sequence[object] | npt.NDArray[np.generic]) -> Ints:
    """Return a 64-bit hash of each user, for `poisson_bootstrap.draw_weights`."""
    digests = b"".join(hashlib.blake2b(str(user).encode(), digest_size=8).digest() for user in users)
    return np.frombuffer(digests, np.int64)
