"""Conversions between torch and NumPy, for tests that compare with NumPy."""

from __future__ import annotations

import numpy as np
import torch


def randomize(module: torch.nn.Module, rng: np.random.Generator) -> None:
    """Fill every parameter with random normal values."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.from_numpy(rng.normal(size=tuple(parameter.shape))))


def array(x: torch.Tensor) -> np.ndarray:
    """Return the values of a tensor."""
    return x.detach().numpy()
