"""The trainer: one function that any number of processes run alike.

A batch of one domain is cut over the processes, the moments of its normalization and its gradients are summed
over them, so that two processes train the model that one would. From the same job the CPU gives the same
bits, also when it was killed and went on from a checkpoint: the order of batches is a pure function
(`plan`), and a resumed run passes over what the checkpoint has seen.

    torchrun --nproc-per-node 2 -m star_ctr.model.train JOB.json
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from star_ctr.conf.errors import DataError
from star_ctr.conf.layout import OTHER_DOMAIN
from star_ctr.conf.training import TrainerSettings
from star_ctr.model import checkpoint, export
from star_ctr.model.hooks import Curve, Hook, Moment
from star_ctr.model.job import TrainingJob
from star_ctr.model.moments import make_levels_true, make_moments_true, sample_files
from star_ctr.model.multi_domain import MultiDomainModel
from star_ctr.model.norms import cut_over_ranks, segments_of
from star_ctr.model.optimizers import Averaged, Optimizers
from star_ctr.model.plan import MIXED, batches_of, rows_by_domain
from star_ctr.model.probe import probe_scores
from star_ctr.model.stream import Batch, ahead, epoch_batches, live_files


def world() -> tuple[int, int]:
    """(rank, processes)."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def device_for(settings: TrainerSettings) -> torch.device:
    """The device of this process."""
    if settings.device == "cpu" or (settings.device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def set_threads(settings: TrainerSettings) -> int:
    """Set this process's torch threads: the declared number, or its share of the cores; returns it."""
    threads = settings.threads or max(1, (os.cpu_count() or 1) // world()[1])
    torch.set_num_threads(threads)
    return threads


class Trainer:
    """One training run: model, optimizers, average, and the place in the order of batches."""

    def __init__(self, job: TrainingJob) -> None:
        self.job = job
        self.settings = job.trainer
        self.device = device_for(job.trainer)
        self.threads = set_threads(job.trainer)
        torch.use_deterministic_algorithms(self.device.type == "cpu")
        torch.manual_seed(job.trainer.seed)
        self.files = live_files(job.split, job.versions["split"], job.ds, "train", job.layout)
        if not self.files:
            raise DataError(f"{job.split}: version {job.versions['split']} has no training rows for {job.ds}")
        self.mixed = job.trainer.batches == "mixed"
        self.model = MultiDomainModel(job.layout, job.model).to(self.device)
        self.steps = self.settings.epochs * sum(
            batches_of(n, self.settings.batch_size) for n in rows_by_domain(self.files, self.mixed).values()
        )
        self.optimizers = Optimizers(self.model, self.settings, self.steps)
        self.averaged = Averaged(self.model, self.settings.averaging)
        self.step, self.rows = 0, 0
        self.rows_by_domain: dict[int, int] = {}

    def train(self, hooks: Sequence[Hook] = ()) -> float:
        """Train from where it stands to the end; returns the seconds that it took."""
        began = last_saved = time.monotonic()
        moment = Moment(self.step, self.steps, self.rows, "", 0.0)
        for hook in hooks:
            hook.begin(moment)
        try:
            for batch in self._batches():
                loss = self.train_step(batch)
                moment = Moment(self.step, self.steps, self.rows, self.domain_name(batch.domain), loss)
                for hook in hooks:
                    hook.step(moment)
                if time.monotonic() - last_saved > 60 * self.settings.checkpoint_minutes and world()[0] == 0:
                    self.save()
                    last_saved = time.monotonic()
        finally:
            for hook in hooks:
                hook.end(moment)
        return time.monotonic() - began

    def _batches(self) -> Iterator[Batch]:
        """The batches from where the run stands to its end."""
        passed = 0
        s = self.settings
        for epoch in range(s.epochs):
            batches = epoch_batches(self.files, self.job.layout, s.batch_size, s.window_rows, s.seed, epoch, self.mixed)
            for batch in ahead(batches):
                if passed >= self.step:
                    yield batch
                passed += 1

    def train_step(self, batch: Batch) -> float:
        """One step on a batch; returns its mean cross entropy (eq. 8) over all processes."""
        rank, processes = world()
        mine = slice(rank, None, processes)
        ints, floats, label = (
            torch.from_numpy(a[mine]).to(self.device, non_blocking=True)
            for a in (batch.rows.ints, batch.rows.floats, batch.rows.label)
        )
        self.model.train()
        # Dropout is the same from the same step on, whether or not the run was resumed before it.
        torch.manual_seed(hash((self.settings.seed, self.step, rank)) % (1 << 62))
        whole = segments_of(batch.rows.domain)
        segments = cut_over_ranks(whole, rank, processes)
        logit_B = self.model(ints, floats, segments)
        loss = F.binary_cross_entropy_with_logits(logit_B, label, reduction="sum") / len(batch.rows)
        more = self.model.own_loss(segments)
        self.optimizers.zero_grad()
        total = loss if more is None else loss + more / len(batch.rows)
        total.backward()  # type: ignore[no-untyped-call]
        self.optimizers.step(self.step)
        self.averaged.update(self.optimizers.sparse.touched)
        self.step += 1
        self.rows += len(batch.rows)
        for p, start, stop in whole:
            self.rows_by_domain[p] = self.rows_by_domain.get(p, 0) + stop - start
        value = loss.detach()
        if processes > 1:
            dist.all_reduce(value)
        if not torch.isfinite(value):
            raise DataError(
                f"step {self.step}, domain {self.domain_name(batch.domain)}: the loss is {float(value)}; "
                "lower trainer.lr, or look for a numeric feature with extreme values"
            )
        return float(value)

    def finish(self) -> tuple[dict[int, int], dict[int, float]]:
        """Take the averaged weights, if any, and make moments and levels true (`model.moments`).

        Returns, by domain, the rows used for the moments and the moves of the levels.
        """
        self.averaged.swap_in()
        self.model.eval()
        rows: dict[int, int] = {}
        levels: dict[int, float] = {}
        if self.settings.moments_rows:
            files = sample_files(self.files, self.settings.moments_rows)
            s, layout = self.settings, self.job.layout
            rows = make_moments_true(self.model, files, layout, s.half_life, s.moments_prior, self.device)
            if s.levels:
                levels = make_levels_true(self.model, files, layout, s.half_life, self.device)
        seen = self.rows_by_domain
        if seen and OTHER_DOMAIN not in seen:
            self.model.adopt(max(seen, key=lambda p: (seen[p], -p)))
        return rows, levels

    def domain_name(self, number: int) -> str:
        """The name of a domain's number."""
        return "mixed" if number == MIXED else ["other", *self.job.layout.domains][number]

    # --- checkpoints

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {f"model/{n}": t for n, t in self.model.state_dict().items()}
        tensors |= {f"optimizer/{n}": t for n, t in self.optimizers.tensors()}
        tensors |= {f"average/{n}": t for n, t in self.averaged.weights.items()}
        tensors |= {f"average-steps/{n}": t for n, t in self.averaged.steps.items()}
        return tensors

    def save(self) -> None:
        """Write a checkpoint of where the run stands."""
        place: dict[str, Any] = {
            "fingerprint": self.job.fingerprint(),
            "run_id": self.job.run_id,
            "step": self.step,
            "rows": self.rows,
            "rows_by_domain": {str(k): v for k, v in self.rows_by_domain.items()},
        }
        checkpoint.save(self.job.place / "checkpoint", self._tensors(), place)

    def resume(self) -> bool:
        """Go on from the run's checkpoint, if there is an unfinished one of the same job."""
        folder = self.job.place / "checkpoint"
        place = checkpoint.latest(folder)
        if place is None or place["fingerprint"] != self.job.fingerprint() or place["step"] >= self.steps:
            return False
        tensors = checkpoint.load(folder, place)

        def part(prefix: str) -> dict[str, Tensor]:
            return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}

        self.model.load_state_dict(part("model/"))
        self.optimizers.load(part("optimizer/"))
        self.averaged.weights.update(part("average/"))
        self.averaged.steps.update(part("average-steps/"))
        self.step, self.rows = place["step"], place["rows"]
        self.rows_by_domain = {int(k): v for k, v in place["rows_by_domain"].items()}
        return True


def train(job: TrainingJob, hooks: Sequence[Hook] = ()) -> dict[str, Any]:
    """Train a job to its end and export it; returns (and writes) the run's record."""
    trainer = Trainer(job)
    resumed = trainer.resume()
    curve = Curve()
    seconds = trainer.train([*hooks, curve])
    if world()[0] == 0:
        trainer.save()
    moments, levels = trainer.finish()
    record = {
        "run_id": job.run_id,
        "ds": job.ds,
        "seed": job.trainer.seed,
        "fingerprint": job.fingerprint(),
        "versions": job.versions,
        "code": job.code,
        "settings": job.settings,
        "processes": world()[1],
        "threads": trainer.threads,
        "device": str(trainer.device),
        "torch": torch.__version__,
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
        "steps": trainer.step,
        "resumed": resumed,
        "seconds": round(seconds, 3),
        "rows": _named(trainer, trainer.rows_by_domain),
        "moments_rows": _named(trainer, moments),
        "levels": {trainer.domain_name(p): round(d, 6) for p, d in sorted(levels.items())},
        "lone_rows": _named(trainer, trainer.model.lone_rows()),
        "curve": curve.curve,
    }
    if world()[0] == 0:
        export.export(trainer.model, job.model, job.layout, job.place)
        record["probe"] = probe_scores(trainer.model, job, trainer.device)
        checkpoint.write_json(job.place / "record.json", record)
    return record


def _named(trainer: Trainer, rows: dict[int, int]) -> dict[str, int]:
    return {trainer.domain_name(p): n for p, n in sorted(rows.items()) if n}
