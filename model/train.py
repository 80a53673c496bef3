"""Entry point of training: `torchrun --nproc-per-node N -m star_ctr.model.train JOB.json [--resume]`.

`star-ctr train` writes the job file to the folder of the run. The trainer writes its results and the exported model to
the job's folder. With `--resume`, a checkpoint of the job must exist.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist

from star_ctr.conf.contracts.catalog import RESULT_FILE
from star_ctr.conf.errors import UserError, format_user_error
from star_ctr.conf.files import open_folder, write_text
from star_ctr.model.distributed.process_group import choose_device, get_rank_and_size
from star_ctr.model.distributed.process_lifetime import end_with_parent, run_child
from star_ctr.model.distributed.threads import count_cores
from star_ctr.model.distributed.torchrun_agent import STOPPED, open_store
from star_ctr.model.training.callbacks import Callback
from star_ctr.model.training.callbacks.checkpoints_and_sigterm import StoppedError
from star_ctr.model.training.callbacks.progress import ProgressBar
from star_ctr.model.training.callbacks.scalars import MLflow, TensorBoard
from star_ctr.model.training.checkpoint import find_latest
from star_ctr.model.training.job import TrainingJob
from star_ctr.model.training.run import train


def launch(job: TrainingJob, must_resume: bool = False) -> None:
    """Train a job with `trainer.processes` processes on this machine; write the results and the model to its folder.

    If a process fails, all processes restart from the last checkpoint, up to `trainer.distributed.restarts` times. All
    processes end when this process ends.

    Args:
        job: The training job.
        must_resume: Whether a checkpoint of the job must exist. Otherwise, it is used if it exists.

    Raises:
        StoppedError: This process received SIGTERM. The message names the step of the last checkpoint, if there is one.
        UserError: A process failed.
    """
    path = write_job(job)
    if job.trainer.processes == 1:
        train(job, make_callbacks(job), must_resume)
        return
    cores = max(1, count_cores() // job.trainer.processes)  # by default, torchrun sets 1
    with tempfile.TemporaryDirectory(prefix="star-ctr-") as store:
        command = [
            sys.executable, "-m", "star_ctr.model.distributed.torchrun_agent", store,
            f"--nproc-per-node={job.trainer.processes}", f"--max-restarts={job.trainer.distributed.restarts}",
            "-m", "star_ctr.model.train", str(path), *(["--resume"] if must_resume else []),
        ]  # fmt: skip
        code = run_child(command, {"OMP_NUM_THREADS": str(cores), **os.environ})
    if code == STOPPED:
        saved = find_latest(job.path / "checkpoint")
        where = f"after saving a checkpoint at step {saved['step']}" if saved else "before its first checkpoint"
        raise StoppedError(f"{job.run_id}: stopped by SIGTERM {where}; run the same command again to resume")
    if code != 0:
        raise UserError(f"{job.run_id}: a training process failed; see its message above")


def write_job(job: TrainingJob) -> Path:
    """Write the job to its folder, and delete the results of an earlier training run.

    Returns:
        The path of the job file.
    """
    path = job.path / "job.json"
    write_text(path, job.model_dump_json(indent=1) + "\n")
    (job.path / RESULT_FILE).unlink(missing_ok=True)
    return path


def make_callbacks(job: TrainingJob) -> list[Callback]:
    """Create the callbacks that report the progress of a training run.

    Returns:
        A progress bar, TensorBoard if `trainer.runtime.tensorboard` is on, and MLflow if the environment variable
        `MLFLOW_TRACKING_URI` is set.
    """
    callbacks: list[Callback] = [ProgressBar("train")]
    if job.trainer.runtime.tensorboard:
        callbacks.append(TensorBoard(job.path / "tensorboard"))
    if os.environ.get("MLFLOW_TRACKING_URI"):
        settings = {f"model.{k}": v for k, v in job.model.model_dump(mode="json").items()}
        for name, value in job.trainer.model_dump(mode="json").items():
            group = {f"{name}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {name: value}
            settings |= {f"trainer.{k}": v for k, v in group.items()}
        callbacks.append(MLflow("star-ctr", job.run_id, settings))
    return callbacks


def main(path: str, must_resume: bool = False) -> None:
    """Train a job in this process, as a member of the process group if a launcher started it.

    Args:
        path: The path of the job file.
        must_resume: Whether a checkpoint of the job must exist.
    """
    job = TrainingJob.model_validate_json(open_folder(path).read_text(encoding="utf-8"))
    restarts = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    if "RANK" in os.environ:
        cuda = choose_device(job.trainer).type == "cuda"
        if cuda:
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        end_with_parent()
        rank, processes = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        backend, store = "nccl" if cuda else "gloo", open_store(restarts, processes)
        dist.init_process_group(backend, store=store, rank=rank, world_size=processes)
    # A restarted group resumes from a checkpoint, but must not fail if there is none yet.
    is_first_start = restarts == "0"
    try:
        train(job, make_callbacks(job) if get_rank_and_size()[0] == 0 else [], must_resume and is_first_start)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


if __name__ == "__main__":
    if not 2 <= len(sys.argv) <= 3 or sys.argv[2:] not in ([], ["--resume"]):
        raise SystemExit(__doc__)
    try:
        main(sys.argv[1], must_resume=len(sys.argv) == 3)
    except StoppedError as error:
        print(f"train: {error}", file=sys.stderr)
        raise SystemExit(STOPPED) from None
    except Exception as error:  # broad: safetensors raises its own error type if the disk is full
        if message := format_user_error(error):
            raise SystemExit(f"train: {message}") from None
        raise
