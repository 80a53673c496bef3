"""The way in for torchrun: `torchrun --nproc-per-node N -m star_ctr.model.train JOB.json [--resume]`.

The job file is what `star-ctr train` writes into the run's folder; the record and the exported model land beside it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from star_ctr.conf.errors import UserError
from star_ctr.model.hooks import Hook
from star_ctr.model.hooks.checkpoints import StoppedError
from star_ctr.model.hooks.progress import ProgressBar
from star_ctr.model.hooks.scalars import MLflow, TensorBoard
from star_ctr.model.job import TrainingJob
from star_ctr.model.processes import device_for, world
from star_ctr.model.run import train
from star_ctr.model.threads import available_cores

STOPPED = 3
"""Exit code of a process that was told to stop and saved."""

OWN_STORE = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
"""Environment in which torchrun starts a group anew with a store of its own: in the agent's, which it shares by
default, the addresses of the processes that died still stand, and the new ones call those (pytorch/pytorch#135712)."""


def launch(job: TrainingJob, must_resume: bool = False) -> None:
    """Train a job with as many processes as its settings say; the record and the model land in its folder.

    A group that loses a process is started again from the last checkpoint, up to `trainer.restarts` times.
    """
    path = write_job(job)
    if job.trainer.processes == 1:
        train(job, hooks_of(job), must_resume)
        return
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone",
        f"--nproc-per-node={job.trainer.processes}", f"--max-restarts={job.trainer.restarts}",
        "-m", "star_ctr.model.train", str(path), *(["--resume"] if must_resume else []),
    ]  # fmt: skip
    cores = max(1, available_cores() // job.trainer.processes)  # torchrun would set one per process
    environment = {"OMP_NUM_THREADS": str(cores), **OWN_STORE, **os.environ}
    if subprocess.run(command, check=False, env=environment).returncode != 0:
        raise UserError(f"{job.run_id}: a training process failed; its own message stands above")


def write_job(job: TrainingJob) -> Path:
    """Put the job's file into its folder, and the record of an earlier training away; returns the file."""
    path = job.place / "job.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(job.model_dump_json(indent=1) + "\n", encoding="utf-8")
    (job.place / "record.json").unlink(missing_ok=True)
    return path


def hooks_of(job: TrainingJob) -> list[Hook]:
    """What shows a training while it runs: a bar, TensorBoard's files, and MLflow where MLFLOW_TRACKING_URI is set."""
    hooks: list[Hook] = [ProgressBar("train")]
    if job.trainer.tensorboard:
        hooks.append(TensorBoard(job.place / "tensorboard"))
    if os.environ.get("MLFLOW_TRACKING_URI"):
        settings = {f"model.{k}": v for k, v in job.model.model_dump(mode="json").items()}
        settings |= {f"trainer.{k}": v for k, v in job.trainer.model_dump(mode="json").items()}
        hooks.append(MLflow("star-ctr", job.run_id, settings))
    return hooks


def main(path: str, must_resume: bool = False) -> None:
    """Join the group of processes, if there is one, and train."""
    job = TrainingJob.model_validate_json(Path(path).read_text(encoding="utf-8"))
    if "RANK" in os.environ:
        cuda = device_for(job.trainer).type == "cuda"
        if cuda:
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("nccl" if cuda else "gloo")
    # A group that was started again goes on from its checkpoint, if the first one came as far as that.
    first = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"
    try:
        train(job, hooks_of(job) if world()[0] == 0 else [], must_resume and first)
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
    except UserError as error:
        raise SystemExit(f"train: {error}") from None
