"""The way in for torchrun: `torchrun --nproc-per-node N -m star_ctr.model.train JOB.json`.

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
from star_ctr.model.hooks import ProgressBar
from star_ctr.model.job import TrainingJob
from star_ctr.model.trainer import device_for, train, world


def launch(job: TrainingJob) -> None:
    """Train a job with as many processes as its settings say; the record and the model land in its folder."""
    path = job.place / "job.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(job.model_dump_json(indent=1) + "\n", encoding="utf-8")
    (job.place / "record.json").unlink(missing_ok=True)
    if job.trainer.processes == 1:
        train(job, [ProgressBar("train")])
        return
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone",
        f"--nproc-per-node={job.trainer.processes}", "-m", "star_ctr.model.train", str(path),
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    if subprocess.run(command, check=False, env=environment).returncode != 0:
        raise UserError(f"{job.run_id}: a training process failed; its own message stands above")


def main(path: str) -> None:
    """Join the group of processes, if there is one, and train."""
    job = TrainingJob.model_validate_json(Path(path).read_text(encoding="utf-8"))
    if "RANK" in os.environ:
        cuda = device_for(job.trainer).type == "cuda"
        if cuda:
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("nccl" if cuda else "gloo")
    try:
        train(job, [ProgressBar("train")] if world()[0] == 0 else [])
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    try:
        main(sys.argv[1])
    except UserError as error:
        raise SystemExit(f"train: {error}") from None
