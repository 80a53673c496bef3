"""What the tests of layers, networks and trainings share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from star_ctr.model.training.job import TrainingJob
from star_ctr.model.training.run import train
from tests.model.synthetic import without_dropout, write_split


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


@pytest.fixture(scope="session")
def alone(table: str, tmp_path_factory: pytest.TempPathFactory) -> TrainingJob:
    """The training that one process makes on the CPU, undisturbed; tests only read it."""
    j = without_dropout(table, tmp_path_factory.mktemp("alone"))
    train(j)
    return j
