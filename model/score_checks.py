"""Checks of scores and weights. They also fail for NaN, for which every comparison is false."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from star_ctr.conf.errors import DataError

TOLERANCE = 1e-5
"""Maximum difference between the scores of the trainer's model and the exported model (float32)."""
_NAMED = 20
"""Maximum number of domains that a message names."""


def is_within_tolerance(difference: float) -> bool:
    """Return whether a difference between two scores is at most `TOLERANCE`; False for NaN."""
    return bool(difference <= TOLERANCE)


def check_score_array(scores: npt.NDArray[np.float64], domains: Sequence[str], what: str) -> None:
    """Check that all scores are in [0, 1].

    Args:
        scores: (n,) scores.
        domains: (n,) the domain of each row.
        what: The source of the scores, as the start of the message.

    Raises:
        DataError: Scores are missing, not finite or outside [0, 1]. The message has their number by domain.
    """
    bad = np.flatnonzero(~((scores >= 0) & (scores <= 1)))
    if len(bad):
        raise DataError(format_invalid_scores(what, len(bad), len(scores), Counter(domains[k] for k in bad)))


def format_invalid_scores(what: str, invalid_rows: int, total_rows: int, by_domain: Mapping[str, int]) -> str:
    """Format the message about invalid scores.

    Args:
        what: The source of the scores, as the start of the message.
        invalid_rows: The number of rows with an invalid score.
        total_rows: The number of all rows.
        by_domain: The number of rows with an invalid score, by domain.

    Returns:
        The message. It names the domains with the most invalid scores.
    """
    most = sorted(by_domain.items(), key=lambda item: (-item[1], item[0]))
    named = ", ".join(f"{domain}: {n:,}" for domain, n in most[:_NAMED])
    named += f", and {len(most) - _NAMED:,} more domains" if len(most) > _NAMED else ""
    return (
        f"{what}: {invalid_rows:,} of {total_rows:,} rows have a score that is missing, not finite or outside [0, 1] "
        f"({named})"
    )


def check_weights(tensors: Mapping[str, Tensor], what: str) -> None:
    """Check that all weights are finite.

    Args:
        tensors: The tensors by name.
        what: The source of the weights, as the start of the message.

    Raises:
        DataError: A tensor has non-finite values. The message names up to five such tensors.
    """
    found = {
        name: n
        for name, tensor in tensors.items()
        if tensor.is_floating_point() and (n := int((~torch.isfinite(tensor)).sum()))
    }
    if found:
        named = ", ".join(f"{name} ({n:,} of {tensors[name].numel():,})" for name, n in list(found.items())[:5])
        more = f" and {len(found) - 5} more tensors" if len(found) > 5 else ""
        raise DataError(
            f"{what}: non-finite weights in {named}{more}; "
            "lower trainer.optimizer.lr, or check numeric features for extreme values"
        )
