"""The trainer: one loop that any number of processes run alike.

A batch is cut over the processes, the moments of its normalization and its gradients are summed over them, so that two
processes train the model that one would; or each process takes a batch of its own (`trainer.parallel`), and the step
is that of all their rows. From the same job the CPU gives the same bits, also when it was killed and went on from a
checkpoint (`model.state`): the order of batches is a pure function (`model.stream.plan`), and a resumed run begins in
its middle.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F

from star_ctr.conf.contracts.encoded_row import OTHER_DOMAIN
from star_ctr.conf.errors import DataError
from star_ctr.model.data.batch_order import MIXED, count_batches, count_rows_by_domain
from star_ctr.model.data.batches import Batch, iter_epoch
from star_ctr.model.data.reader import Rows, list_live_files
from star_ctr.model.data.step_batches import SharedStepBatches, StepBatches
from star_ctr.model.distributed.process_group import barrier, choose_device, get_rank_and_size, seed_device
from star_ctr.model.distributed.shared_memory import is_on_one_machine
from star_ctr.model.distributed.threads import choose_readers, choose_threads
from star_ctr.model.embeddings.sharding import WHOLE
from star_ctr.model.layers.partitioned_norm import NormStatistics
from star_ctr.model.layers.segments import Segment, cut_across_ranks, find_segments
from star_ctr.model.models.multi_domain import MultiDomainModel
from star_ctr.model.training.calibration import calibrate_output_biases, choose_sample_files, recompute_norm_statistics
from star_ctr.model.training.callbacks import Callback, CallbackEvent, StepResult
from star_ctr.model.training.ema import WeightEma
from star_ctr.model.training.job import TrainingJob
from star_ctr.model.training.optimizers import Optimizers, get_tables


class Trainer:
    """One training run: model, optimizers, average, and the place in the order of batches."""

    def __init__(self, job: TrainingJob) -> None:
        self.job = job
        self.settings = job.trainer
        self.device = choose_device(job.trainer)
        self.use_threads(choose_threads(job.trainer, job.model))
        torch.use_deterministic_algorithms(self.device.type == "cpu")
        # Checks of torch's own kernels, which cost 5% of a step, and would be warned about were they left open.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        torch.sparse.check_sparse_tensor_invariants.disable()  # type: ignore[no-untyped-call]
        seed_device(self.device, job.trainer.seed)
        self.files = list_live_files(job.split, job.versions["split"], job.ds, "train", job.layout)
        if not self.files:
            raise DataError(f"{job.split}: version {job.versions['split']} has no training rows for {job.ds}")
        self.mixed = job.trainer.data.batches == "mixed"
        part = get_rank_and_size() if job.trainer.distributed.tables == "sharded" else WHOLE
        self.model = MultiDomainModel(job.layout, job.model, part).to(self.device)
        self.batches_a_step = get_rank_and_size()[1] if self.settings.parallel == "batches" else 1
        if isinstance(self.model.norm, NormStatistics):
            self.model.norm.together = self.settings.parallel == "rows"
        self.steps_an_epoch = sum(
            count_batches(n, self.settings.batch_size) for n in count_rows_by_domain(self.files, self.mixed).values()
        )
        self.steps = self.settings.epochs * self.steps_an_epoch
        self.optimizers = Optimizers(self.model, self.settings, self.steps)
        self.ema = WeightEma(self.model, get_tables(self.model), self.settings.optimizer.ema_decay)
        self.tables = "whole"
        """How the processes hold the embeddings, for the record."""
        self._in_common = False
        """Whether there are other processes, with which it has memory in common."""
        self.worlds = [self.describe_environment()]
        """Numbers of processes and threads, with the step from which they apply. The exact weights depend on them."""
        self.step, self.rows = 0, 0  # a step a batch, also where several make one step together
        self.rows_by_domain: dict[int, int] = {}

    def describe_environment(self) -> dict[str, Any]:
        """Return what the bits of the weights depend on besides the job, from the current step on."""
        return {
            "step": getattr(self, "step", 0),
            "processes": get_rank_and_size()[1],
            "threads": self.threads,
            "device": self.device.type,
        }

    def use_threads(self, threads: int) -> None:
        """Set the number of torch threads. Weights are only bit-identical for the same number."""
        self.threads = threads
        torch.set_num_threads(threads)

    def train(self, hooks: Sequence[Callback] = ()) -> CallbackEvent:
        """Train from where it stands to the end; returns the last moment."""
        self._in_common = self.device.type == "cpu" and is_on_one_machine()
        self.tables = self.optimizers.join(self.ema, self._in_common)
        began, before = time.monotonic(), self.rows
        moment = CallbackEvent(self.step, self.steps)
        for hook in hooks:
            hook.begin(moment)
        steps = self._iter_steps()
        try:
            while self.step < self.steps:
                together = steps.take()
                losses, lr = self.train_step(together), self.optimizers.lr
                rows, seconds = self.rows - before, time.monotonic() - began
                trained = [StepResult(b, self.domain_name(b.domain), x) for b, x in zip(together, losses, strict=True)]
                moment = CallbackEvent(self.step, self.steps, rows, seconds, steps.waited, lr, trained)
                for hook in hooks:
                    hook.step(moment)
        finally:
            steps.close()
            for hook in hooks:
                hook.end(moment)
        return moment

    def settle(self) -> None:
        """Go on when the last step is over for all processes, if they have memory in common."""
        if self._in_common:
            barrier()

    def _iter_steps(self) -> StepBatches:
        if self._in_common:
            return SharedStepBatches(
                self._iter_batches(), self.batches_a_step, self.job.layout, self.settings.batch_size
            )
        return StepBatches(self._iter_batches(), self.batches_a_step, pin=self.device.type == "cuda")

    def _iter_batches(self) -> Iterator[Batch]:
        """The batches from where the run stands to its end; an epoch's windows fill while the last one ends."""
        s, layout, readers = self.settings, self.job.layout, choose_readers(self.settings, self._in_common)
        first, start = divmod(self.step, self.steps_an_epoch)
        window = max(1, min(s.data.window_rows, s.data.window_bytes // layout.row_bytes))
        epochs = (
            iter_epoch(
                self.files, layout, s.batch_size, window, s.seed, e, self.mixed, start if e == first else 0, readers
            )
            for e in range(first, s.epochs)
        )
        return chain.from_iterable(epochs)

    def train_step(self, batches: Sequence[Batch]) -> list[float]:
        """One step on a batch, or on one a process; returns each one's mean cross entropy (eq. 8)."""
        wholes = [find_segments(b.rows.domain) for b in batches]
        mine, segments = self._take_part(batches, wholes)
        ints, floats, label = (
            torch.from_numpy(a).to(self.device, non_blocking=True) for a in (mine.ints, mine.floats, mine.label)
        )
        if not self.model.training:
            self.model.train()
        # Dropout is the same from the same step on, whether or not the run was resumed before it.
        seed_device(self.device, hash((self.settings.seed, self.step, get_rank_and_size()[0])) % (1 << 62))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.optimizer.precision == "bfloat16"):
            logit_B = self.model(ints, floats, segments)
            more = self.model.auxiliary_loss(segments)
        loss = F.binary_cross_entropy_with_logits(logit_B.float(), label, reduction="sum")
        self.optimizers.zero_grad()
        rows = sum(len(b.rows) for b in batches)
        total = loss / rows if more is None else loss / rows + more / rows
        total.backward()  # type: ignore[no-untyped-call]
        domains = {p for p, _, _ in chain.from_iterable(wholes)}
        sums = self.optimizers.step(self.step, domains, self._compute_sums(batches, loss.detach()))
        if isinstance(self.model.norm, NormStatistics):
            self.model.norm.settle()
        self.ema.update(self.optimizers.sparse.changes)
        self.step += len(batches)
        self.rows += rows
        for p, start, stop in chain.from_iterable(wholes):
            self.rows_by_domain[p] = self.rows_by_domain.get(p, 0) + stop - start
        return self._compute_losses(batches, sums)

    def _take_part(self, batches: Sequence[Batch], wholes: Sequence[list[Segment]]) -> tuple[Rows, list[Segment]]:
        """The rows of a step that this process works on, and their segments: all processes join in every step."""
        rank, processes = get_rank_and_size()
        if self.settings.parallel == "rows":
            return batches[0].rows.part(slice(rank, None, processes)), cut_across_ranks(wholes[0], rank, processes)
        if rank < len(batches):
            return batches[rank].rows, wholes[rank]
        return batches[0].rows.part(slice(0, 0)), [(batches[0].domain, 0, 0)]

    def _compute_sums(self, batches: Sequence[Batch], mine: torch.Tensor) -> torch.Tensor:
        """What this process has of the sum of each batch's losses."""
        sums = mine.new_zeros(len(batches))
        number = get_rank_and_size()[0] if self.settings.parallel == "batches" else 0
        if number < len(batches):
            sums[number] = mine
        return sums

    def _compute_losses(self, batches: Sequence[Batch], sums: torch.Tensor) -> list[float]:
        """The mean loss of each batch; `DataError` where one is no number."""
        losses = [total / len(b.rows) for total, b in zip(sums.tolist(), batches, strict=True)]
        for loss, batch in zip(losses, batches, strict=True):
            if not math.isfinite(loss):
                raise DataError(
                    f"step {self.step}, domain {self.domain_name(batch.domain)}: the loss is {loss}; "
                    "lower trainer.optimizer.lr, or look for a numeric feature with extreme values"
                )
        return losses

    def finish(self) -> tuple[dict[int, int], dict[int, float]]:
        """Take the averaged weights, if any, and make moments and levels true (`model.moments`).

        Returns, by domain, the rows used for the moments and the moves of the levels.
        """
        self.settle()  # also until the first process, which has the tables in common, has saved them
        self.ema.swap_in()
        self.model.eval()
        rows: dict[int, int] = {}
        levels: dict[int, float] = {}
        calibration = self.settings.calibration
        if calibration.norm_statistics_rows:
            files = choose_sample_files(self.files, calibration.norm_statistics_rows)
            layout = self.job.layout
            rows = recompute_norm_statistics(
                self.model, files, layout, calibration.half_life, calibration.norm_statistics_prior, self.device
            )
            if calibration.output_biases:
                levels = calibrate_output_biases(self.model, files, layout, calibration.half_life, self.device)
        seen = self.rows_by_domain
        if seen and OTHER_DOMAIN not in seen:
            self.model.copy_domain(max(seen, key=lambda p: (seen[p], -p)))
        return rows, levels

    def domain_name(self, number: int) -> str:
        """The name of a domain's number."""
        return "mixed" if number == MIXED else ["other", *self.job.layout.domains][number]

    def index_by_name(self, rows: dict[int, int]) -> dict[str, int]:
        """The same by the domains' names, without empty ones."""
        return {self.domain_name(p): n for p, n in sorted(rows.items()) if n}
