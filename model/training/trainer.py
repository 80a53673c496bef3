"""The trainer: a training loop that runs in the same way in all processes of a training run.

With `trainer.parallel=rows`, each batch is split over the processes. Normalization statistics and gradients are summed
over them, so that several processes train the same model as one. With `trainer.parallel=batches`, each process has a
separate batch, and a step uses the rows of all batches.

On the CPU, the same job gives bit-identical weights, even if it is killed and resumes from a checkpoint (see
`trainer_state`). The order of batches is a pure function of the job (see `batch_order`), and a resumed run continues in
the middle of it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F

from star_ctr.conf.contracts.domains import OTHER_DOMAIN
from star_ctr.conf.errors import DataError, UserError
from star_ctr.model.data.batch_order import count_batches, count_rows_by_domain
from star_ctr.model.data.batches import Batch, iter_epoch
from star_ctr.model.data.reader import Rows
from star_ctr.model.data.step_batches import SharedStepBatches, StepBatches
from star_ctr.model.data.training_files import list_training_files
from star_ctr.model.distributed.process_group import barrier, choose_device, get_rank_and_size, seed_device
from star_ctr.model.distributed.shared_memory import is_on_one_machine
from star_ctr.model.distributed.threads import choose_readers, choose_threads
from star_ctr.model.embeddings.sharding import WHOLE_PART
from star_ctr.model.layers.calibration_map import CalibrationMap
from star_ctr.model.layers.partitioned_norm import NormStatistics
from star_ctr.model.layers.segments import Segment, find_segments, select_rank_segments
from star_ctr.model.models.multi_domain import MultiDomainModel
from star_ctr.model.training.calibration import calibrate
from star_ctr.model.training.callbacks import Callback, CallbackEvent, StepResult
from star_ctr.model.training.ema import WeightEma
from star_ctr.model.training.job import TrainingJob
from star_ctr.model.training.optimizers import Optimizers, get_tables
from star_ctr.model.training.outcome_loss import OutcomeLoss
from star_ctr.model.training.output_biases import BiasShifts


class Trainer:
    """A training run: the model, its optimizers, the EMA of its weights, and its position in the order of batches."""

    def __init__(self, job: TrainingJob) -> None:
        """Create the model and its optimizers.

        Raises:
            DataError: The split has no training rows for the night of the job.
            UserError: `trainer.negatives` sets a rate per domain, but all domains share one output bias; or
                `trainer.data` or `trainer.negatives` names an unknown domain.
        """
        self.job = job
        self.settings = job.trainer
        self.device = choose_device(job.trainer)
        self.use_threads(choose_threads(job.trainer, job.model))
        torch.use_deterministic_algorithms(self.device.type == "cpu")
        # Checks in torch's kernels, which take 5% of a step. torch warns if they are not set explicitly.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        torch.sparse.check_sparse_tensor_invariants.disable()  # type: ignore[no-untyped-call]
        seed_device(self.device, job.trainer.seed)
        version = job.versions["split"]
        self.data = list_training_files(job.split, version, job.train_partitions, job.layout, job.trainer)
        self.files = self.data.files
        self.mixed = job.trainer.data.batches == "mixed"
        part = get_rank_and_size() if job.trainer.distributed.tables == "sharded" else WHOLE_PART
        heads = len(job.outcome_weights)
        self.model = MultiDomainModel(job.layout, job.model, part, outcomes=heads).to(self.device)
        self.outcome_loss = OutcomeLoss(job.outcome_weights, job.layout, self.data.rates) if heads else None
        if isinstance(job.trainer.negatives, dict) and not self.model.has_domain_biases:
            raise UserError(
                f"trainer.negatives sets a rate per domain, but all domains of model.name={job.model.name} share one "
                "output bias; set a single rate, for example trainer.negatives=0.1"
            )
        self.batches_a_step = get_rank_and_size()[1] if self.settings.parallel == "batches" else 1
        if isinstance(self.model.norm, NormStatistics):
            self.model.norm.shares_batch = self.settings.parallel == "rows"
        self.steps_an_epoch = sum(
            count_batches(n, self.settings.batch_size) for n in count_rows_by_domain(self.files, self.mixed).values()
        )
        self.steps = self.settings.epochs * self.steps_an_epoch
        self.optimizers = Optimizers(self.model, self.settings, self.steps)
        self.ema = WeightEma(self.model, get_tables(self.model), self.settings.optimizer.ema_decay)
        self.tables = "whole"
        """How the processes hold the embedding tables, for the record."""
        self._has_shared_memory = False
        """Whether there are several processes with shared memory."""
        self.environments = [self.describe_environment()]
        """Environments of the training run, with the step from which each applies.

        The bits of the weights depend on them. See `describe_environment`.
        """
        self.step, self.rows = 0, 0  # `step` counts batches, also if several batches make one step
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
        """Set the number of torch threads; weights are bit-identical only for the same number."""
        self.threads = threads
        torch.set_num_threads(threads)

    def train(self, callbacks: Sequence[Callback] = ()) -> CallbackEvent:
        """Train from the current step to the last one.

        Args:
            callbacks: Callbacks to call before the first step, after each step, and at the end.

        Returns:
            The last event.
        """
        self._has_shared_memory = self.device.type == "cpu" and is_on_one_machine()
        self.tables = self.optimizers.join(self.ema, self._has_shared_memory)
        start, rows_before = time.monotonic(), self.rows
        event = CallbackEvent(self.step, self.steps)
        for callback in callbacks:
            callback.begin(event)
        step_batches = self._make_step_batches()
        try:
            while self.step < self.steps:
                batches = step_batches.take()
                losses, lr = self.train_step(batches), self.optimizers.lr
                rows, seconds = self.rows - rows_before, time.monotonic() - start
                results = [StepResult(b, self.domain_name(b.domain), x) for b, x in zip(batches, losses, strict=True)]
                event = CallbackEvent(self.step, self.steps, rows, seconds, step_batches.waited, lr, results)
                for callback in callbacks:
                    callback.step(event)
        finally:
            step_batches.close()
            for callback in callbacks:
                callback.end(event)
        return event

    def wait_for_processes(self) -> None:
        """Wait until all processes have finished the last step, if they have shared memory."""
        if self._has_shared_memory:
            barrier()

    def _make_step_batches(self) -> StepBatches:
        """Return the batches of the remaining steps."""
        if self._has_shared_memory:
            return SharedStepBatches(
                self._iter_batches(), self.batches_a_step, self.job.layout, self.settings.batch_size
            )
        return StepBatches(self._iter_batches(), self.batches_a_step, pin=self.device.type == "cuda")

    def _iter_batches(self) -> Iterator[Batch]:
        """Iterate over the remaining batches of the run.

        Batches are prepared ahead, so the shuffle window of an epoch fills while the trainer finishes the previous
        epoch.

        Returns:
            An iterator over the batches, from the current step to the last epoch.
        """
        s, layout, readers = self.settings, self.job.layout, choose_readers(self.settings, self._has_shared_memory)
        first, start = divmod(self.step, self.steps_an_epoch)
        window = max(1, min(s.data.window_rows, s.data.window_bytes // layout.row_bytes))
        epochs = (
            iter_epoch(
                self.files, layout, s.batch_size, window, s.seed, e, self.mixed, begin, readers, self.data.new_ids
            )
            for e, begin in ((e, start if e == first else 0) for e in range(first, s.epochs))
        )
        return chain.from_iterable(epochs)

    def train_step(self, batches: Sequence[Batch]) -> list[float]:
        """Train one step; all processes must call this with the same batches.

        Args:
            batches: One batch, or with `trainer.parallel=batches` up to one per process.

        Returns:
            The mean cross entropy of each batch (eq. 8), weighted if rows have weights.

        Raises:
            DataError: A loss is not finite.
        """
        batch_segments = [find_segments(b.rows.domain) for b in batches]
        local_rows, segments = self._select_rows(batches, batch_segments)
        tensors = {
            name: torch.from_numpy(a).to(self.device, non_blocking=True)
            for name, a in local_rows.columns.items()
            if name != "domain"
        }
        if not self.model.training:
            self.model.train()
        # Dropout depends only on the step, so that it is the same in a resumed run.
        seed_device(self.device, hash((self.settings.seed, self.step, get_rank_and_size()[0])) % (1 << 62))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.optimizer.precision == "bfloat16"):
            logit_B, outcome_logit_BK = self.model.compute_logits(tensors["ints"], tensors["floats"], segments)
            auxiliary = self.model.auxiliary_loss(segments)
        weight_B = tensors.get("weight")
        loss = F.binary_cross_entropy_with_logits(logit_B.float(), tensors["label"], weight_B, reduction="sum")
        self.optimizers.zero_grad()
        rows = sum(len(b.rows) for b in batches)
        total = loss / rows if auxiliary is None else loss / rows + auxiliary / rows
        if self.outcome_loss is not None and outcome_logit_BK is not None:
            label_B, outcome_BK = tensors["label"], tensors["outcomes"]
            total = total + self.outcome_loss(outcome_logit_BK, outcome_BK, label_B, weight_B, segments) / rows
        total.backward()  # type: ignore[no-untyped-call]
        domains = {p for p, _, _ in chain.from_iterable(batch_segments)}
        sums = self.optimizers.step(self.step, domains, self._compute_sums(batches, loss.detach()))
        if isinstance(self.model.norm, NormStatistics):
            self.model.norm.apply_pending_statistics()
        self.ema.update(self.optimizers.sparse.changes, domains)
        self.step += len(batches)
        self.rows += rows
        for p, start, stop in chain.from_iterable(batch_segments):
            self.rows_by_domain[p] = self.rows_by_domain.get(p, 0) + stop - start
        return self._compute_losses(batches, sums)

    def _select_rows(
        self, batches: Sequence[Batch], batch_segments: Sequence[list[Segment]]
    ) -> tuple[Rows, list[Segment]]:
        """Return the rows of a step for this process, and their segments.

        A process without a batch gets no rows, but still takes part in the step.
        """
        rank, processes = get_rank_and_size()
        if self.settings.parallel == "rows":
            return (
                batches[0].rows.part(slice(rank, None, processes)),
                select_rank_segments(batch_segments[0], rank, processes),
            )
        if rank < len(batches):
            return batches[rank].rows, batch_segments[rank]
        return batches[0].rows.part(slice(0, 0)), [(batches[0].domain, 0, 0)]

    def _compute_sums(self, batches: Sequence[Batch], loss: torch.Tensor) -> torch.Tensor:
        """Return the share of this process in the summed loss of each batch."""
        sums = loss.new_zeros(len(batches))
        number = get_rank_and_size()[0] if self.settings.parallel == "batches" else 0
        if number < len(batches):
            sums[number] = loss
        return sums

    def _compute_losses(self, batches: Sequence[Batch], sums: torch.Tensor) -> list[float]:
        """Return the mean loss of each batch; raises `DataError` if one is not finite."""
        losses = [total / b.rows.total_weight for total, b in zip(sums.tolist(), batches, strict=True)]
        for loss, batch in zip(losses, batches, strict=True):
            if not math.isfinite(loss):
                raise DataError(
                    f"step {self.step}, domain {self.domain_name(batch.domain)}: the loss is {loss}; "
                    "lower trainer.optimizer.lr, or check numeric features for extreme values"
                )
        return losses

    def finish(self) -> tuple[dict[int, int], BiasShifts]:
        """Replace the weights by their EMA, if there is one, and calibrate the model.

        See `calibration` and `calibration_maps`.

        Returns:
            The number of rows used for the normalization statistics by domain, and the shifts of the output biases.
        """
        self.wait_for_processes()  # also waits until the first process has saved the shared tables
        self.ema.swap_in()
        self.model.eval()
        seen = self.rows_by_domain
        # Without shared weights, the network of unknown domains was not trained. It becomes that of the largest domain.
        copied = max(seen, key=lambda p: (seen[p], -p)) if seen and OTHER_DOMAIN not in seen else None
        settings = self.settings.calibration
        rows, shifts = calibrate(self.model, self.data, self.job.layout, settings, self.device, copied)
        for p in self.data.excluded:
            self.model.treat_as_unknown(p)
        if self.job.calibration_maps is not None:
            maps = [self.job.calibration_maps.get_map(name) for name in self.job.layout.domain_index.names]
            self.model.calibration_map = CalibrationMap.from_maps([(m.knots, m.offsets, m.slopes) for m in maps]).to(
                self.device
            )
        return rows, shifts

    def count_left_out(self) -> dict[int, int]:
        """Return the number of negatives left out, by domain number; domains without any are omitted."""
        used = count_rows_by_domain(self.files)
        return {
            p: n - used.get(p, 0) for p, n in count_rows_by_domain(self.data.all_files).items() if n != used.get(p, 0)
        }

    def domain_name(self, number: int) -> str:
        """Return the name of a domain number; `mixed` for `MIXED` and `other` for domain 0."""
        return self.job.layout.domain_index.get_name(number)

    def label_by_domain(self, rows: dict[int, int]) -> dict[str, int]:
        """Return counts by domain name instead of number, without zeros."""
        return {self.domain_name(p): n for p, n in sorted(rows.items()) if n}
