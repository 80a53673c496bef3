"""Fixtures of the tests of layers, networks and training runs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from star_ctr.model.training.job import TrainingJob
from star_ctr.model.training.run import train
from tests.model.processes import Processes
from tests.model.synthetic import without_dropout, write_split


@pytest.fixture
def float64() -> Iterator[None]:
    """Set the default type of tensors to float64."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="session")
def table(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Write a small split with training and test rows. Tests must not change it."""
    folder = tmp_path_factory.mktemp("split")
    write_split(folder, part="test", rows={"a": 60, "b": 20})
    return write_split(folder)


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    """Two processes that train jobs together."""
    processes = Processes(tmp_path_factory.mktemp("pair"), 2)
    yield processes
    processes.close()


@pytest.fixture(scope="session")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    """Three processes that train jobs together."""
    processes = Processes(tmp_path_factory.mktemp("three"), 3)
    yield processes
    processes.close()


@pytest.fixture(scope="session")
def alone(table: str, tmp_path_factory: pytest.TempPathFactory) -> TrainingJob:
    """Train with one process on the CPU, without interruption. Tests must not change the result."""
    j = without_dropout(table, tmp_path_factory.mktemp("alone"))
    train(j)
    return j
