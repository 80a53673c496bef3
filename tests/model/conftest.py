"""What the tests of layers, networks and trainings share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.model.synthetic import write_split


@pytest.fixture
def float64() -> Iterator[None]:
    """Everything made meanwhile is float64."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="session")
def table(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small split with train and test rows; tests only read it."""
    folder = tmp_path_factory.mktemp("split")
    write_split(folder, part="test", rows={"a": 60, "b": 20})
    return write_split(folder)
