"""Distributed training as tasks of a Spark cluster, with one training process per task."""

from __future__ import annotations

from py4j.protocol import Py4JJavaError  # type: ignore[import-untyped]
from pyspark.errors import PySparkException
from pyspark.ml.torch.distributor import TorchDistributor

from star_ctr.conf.errors import UserError
from star_ctr.model.train import main, write_job
from star_ctr.model.training.job import TrainingJob


def launch_on_spark(job: TrainingJob, must_resume: bool = False) -> None:
    """Train a job with `trainer.processes` tasks of the running session.

    The tasks form a barrier stage, so the cluster needs as many free slots. The folder of the job and the split must be
    accessible to all machines. If a task is lost, the stage fails, and Spark restarts all tasks from the last
    checkpoint.

    Args:
        job: The training job.
        must_resume: Whether to fail if there is no checkpoint to resume from.

    Raises:
        UserError: The cluster has too few slots, or training failed.
    """
    path = write_job(job)
    cuda = job.trainer.device == "cuda"
    try:
        TorchDistributor(job.trainer.processes, local_mode=False, use_gpu=cuda).run(main, str(path), must_resume)
    except (RuntimeError, PySparkException, Py4JJavaError) as error:
        lines = str(error).strip().splitlines()
        reason = next((line for line in lines if "Barrier execution mode" in line), lines[-1] if lines else "")
        raise UserError(
            f"{job.run_id}: training on Spark failed: {reason}. The run needs trainer.processes="
            f"{job.trainer.processes} free slots at the same time; see the logs of the tasks for other errors"
        ) from None
