"""Load the model of an attempt in Spark workers, once per process: for `score` and for batch scoring."""

from __future__ import annotations

from typing import NamedTuple

from pyspark.sql import SparkSession

from star_ctr.conf.contracts.catalog import LAYOUT_FILE, WEIGHTS_FILE
from star_ctr.conf.files import hash_file, open_folder
from star_ctr.jobs.registry.attempts import Attempt
from star_ctr.model.export import read_outcomes
from star_ctr.model.predictor import Predictor


class ModelFiles(NamedTuple):
    """The files that a worker loads a model from.

    Attributes:
        folder: The folder of the attempt.
        files: The name and SHA-256 of each file.
        threads: The number of threads to use, which is the number of cores per task.
        outcomes: The names of the further outcomes that the model predicts.
    """

    folder: str
    files: tuple[tuple[str, str], ...]
    threads: int
    outcomes: tuple[str, ...] = ()


def describe_model(spark: SparkSession, attempt: Attempt) -> ModelFiles:
    """Return the files of an attempt's model, for the workers of a session, which verify the hashes on loading."""
    threads = int(spark.sparkContext.getConf().get("spark.task.cpus", "1"))
    names = (WEIGHTS_FILE, LAYOUT_FILE)
    # A replayed attempt is not published, so it has no record with hashes.
    files = attempt.record()["files"] if attempt.is_published else {n: hash_file(attempt.folder / n) for n in names}
    hashes, outcomes = tuple((name, files[name]) for name in names), tuple(read_outcomes(attempt.folder))
    return ModelFiles(str(attempt.folder.absolute()), hashes, threads, outcomes)


_PREDICTORS: dict[ModelFiles, Predictor] = {}
"""The predictor of this process, by its model."""


def load_predictor(model: ModelFiles) -> Predictor:
    """Return the predictor of a model in a worker. The predictor is cached per process instead of loaded per task."""
    import torch

    torch.set_num_threads(model.threads)  # by default, each task would use all cores of the machine
    if model not in _PREDICTORS:
        _PREDICTORS.clear()
        _PREDICTORS[model] = Predictor(open_folder(model.folder), dict(model.files))
    return _PREDICTORS[model]
