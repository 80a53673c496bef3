"""The trainer: one loop that any number of processes run alike.

A batch of one domain is cut over the processes, the moments of its normalization and its gradients are summed
over them, so that two processes train the model that one would. From the same job the CPU gives the same
bits, also when it was killed and went on from a checkpoint (`model.state`): the order of batches is a pure function
(`model.plan`), and a resumed run begins in its middle.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence

import torch
import torch.distributed as dist
import torch.nn.functional as F

from star_ctr.conf.errors import DataError
from star_ctr.conf.layout import OTHER_DOMAIN
from star_ctr.model.hooks import Hook, Moment
from star_ctr.model.job import TrainingJob
from star_ctr.model.moments import make_levels_true, make_moments_true, sample_files
from star_ctr.model.multi_domain import MultiDomainModel
from star_ctr.model.norms import cut_over_ranks, segments_of
from star_ctr.model.optimizers import Averaged, Optimizers
from star_ctr.model.plan import MIXED, batches_of, rows_by_domain
from star_ctr.model.processes import device_for, seed, set_threads, world
from star_ctr.model.reading import live_files
from star_ctr.model.sharding import WHOLE
from star_ctr.model.stream import Batch, ahead, epoch_batches


class Trainer:
    """One training run: model, optimizers, average, and the place in the order of batches."""

    def __init__(self, job: TrainingJob) -> None:
        self.job = job
        self.settings = job.trainer
        self.device = device_for(job.trainer)
        self.threads = set_threads(job.trainer)
        torch.use_deterministic_algorithms(self.device.type == "cpu")
        # Checks of torch's own kernels, which cost 5% of a step, and would be warned about were they left open.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        torch.sparse.check_sparse_tensor_invariants.disable()  # type: ignore[no-untyped-call]
        seed(self.device, job.trainer.seed)
        self.files = live_files(job.split, job.versions["split"], job.ds, "train", job.layout)
        if not self.files:
            raise DataError(f"{job.split}: version {job.versions['split']} has no training rows for {job.ds}")
        self.mixed = job.trainer.batches == "mixed"
        part = world() if job.trainer.tables == "sharded" else WHOLE
        self.model = MultiDomainModel(job.layout, job.model, part).to(self.device)
        self.steps_an_epoch = sum(
            batches_of(n, self.settings.batch_size) for n in rows_by_domain(self.files, self.mixed).values()
        )
        self.steps = self.settings.epochs * self.steps_an_epoch
        self.optimizers = Optimizers(self.model, self.settings, self.steps)
        self.averaged = Averaged(self.model, self.settings.averaging)
        self.step, self.rows = 0, 0
        self.rows_by_domain: dict[int, int] = {}

    def train(self, hooks: Sequence[Hook] = ()) -> Moment:
        """Train from where it stands to the end; returns the last moment."""
        began, before, waited = time.monotonic(), self.rows, 0.0
        moment = Moment(self.step, self.steps)
        for hook in hooks:
            hook.begin(moment)
        batches = self._batches()
        try:
            while self.step < self.steps:
                asked = time.monotonic()
                batch = next(batches)
                waited += time.monotonic() - asked
                loss, lr = self.train_step(batch), self.optimizers.lr
                rows, seconds = self.rows - before, time.monotonic() - began
                domain = self.domain_name(batch.domain)
                moment = Moment(self.step, self.steps, rows, seconds, waited, domain, loss, lr, batch)
                for hook in hooks:
                    hook.step(moment)
        finally:
            batches.close()
            for hook in hooks:
                hook.end(moment)
        return moment

    def _batches(self) -> Generator[Batch]:
        """The batches from where the run stands to its end."""
        s = self.settings
        first, start = divmod(self.step, self.steps_an_epoch)
        window = max(1, min(s.window_rows, s.window_bytes // self.job.layout.row_bytes))
        for epoch in range(first, s.epochs):
            yield from ahead(
                epoch_batches(self.files, self.job.layout, s.batch_size, window, s.seed, epoch, self.mixed, start)
            )
            start = 0

    def train_step(self, batch: Batch) -> float:
        """One step on a batch; returns its mean cross entropy (eq. 8) over all processes."""
        rank, processes = world()
        mine = slice(rank, None, processes)
        ints, floats, label = (
            torch.from_numpy(a[mine]).to(self.device, non_blocking=True)
            for a in (batch.rows.ints, batch.rows.floats, batch.rows.label)
        )
        if not self.model.training:
            self.model.train()
        # Dropout is the same from the same step on, whether or not the run was resumed before it.
        seed(self.device, hash((self.settings.seed, self.step, rank)) % (1 << 62))
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

    def by_name(self, rows: dict[int, int]) -> dict[str, int]:
        """The same by the domains' names, without empty ones."""
        return {self.domain_name(p): n for p, n in sorted(rows.items()) if n}
