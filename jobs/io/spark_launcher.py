"""A training as tasks of a Spark cluster: its executors' machines train, one process a task."""

from __future__ import annotations

from py4j.protocol import Py4JJavaError  # type: ignore[import-untyped]
from pyspark.errors import PySparkException
from pyspark.ml.torch.distributor import TorchDistributor

from star_ctr.conf.errors import UserError
from star_ctr.model.train import main, write_job
from star_ctr.model.training.job import TrainingJob


def launch_on_spark(job: TrainingJob, must_resume: bool = False) -> None:
    """Train a job with `trainer.processes` tasks of the running session, all at once (a barrier stage).

    The cluster needs that many free slots, and the job's folder and the split must be where all machines see them.
    A task that is lost fails the stage, and Spark starts all of them again, from the last checkpoint.
    """
    path = write_job(job)
    cuda = job.trainer.device == "cuda"
    try:
        TorchDistributor(job.trainer.processes, local_mode=False, use_gpu=cuda).run(main, str(path), must_resume)
    except (RuntimeError, PySparkException, Py4JJavaError) as error:
        said = str(error).strip().splitlines()
        words = next((line for line in said if "Barrier execution mode" in line), said[-1] if said else "")
        raise UserError(
            f"{job.run_id}: training on Spark failed: {words}. It needs trainer.processes={job.trainer.processes} free "
            "slots at once; the tasks' own words stand in their logs"
        ) from None
