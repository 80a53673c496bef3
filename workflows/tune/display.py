"""The progress of a search in the terminal."""

from __future__ import annotations

from types import TracebackType

from optuna.trial import FrozenTrial, TrialState
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from star_ctr.workflows.terminal import stderr
from star_ctr.workflows.tune import study as studies
from star_ctr.workflows.tune.experiment import Experiment
from star_ctr.workflows.tune.search import Budget


class Display:
    """Progress bars of the search and of the training runs after it.

    Args:
        experiment: The experiment.
    """

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment
        self.progress = Progress(
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[state]}"), console=stderr
        )
        self._tasks: dict[str, TaskID] = {}
        self._printed = {t.number for t in studies.list_trials(experiment.study)}

    def __enter__(self) -> Display:
        """Show the progress."""
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop showing the progress."""
        self.progress.stop()

    def show_search(self, budget: Budget) -> None:
        """Show the number of trials, the best gain and the time left, and print finished trials."""
        trials = studies.list_trials(self.experiment.study)
        baseline = studies.get_baseline(self.experiment.study)
        for trial in trials:
            if trial.number not in self._printed:
                self._printed.add(trial.number)
                self._print_trial(trial, baseline)
        complete = [t for t in trials if t.state == TrialState.COMPLETE and studies.get_values(t)]
        best = max(complete, key=lambda t: t.values[0], default=None)
        state = f"{len(trials)} trials"
        if best is not None and baseline is not None:
            gain = best.values[0] - baseline.values[0]
            state += f", best {gain:+.4f} {self.experiment.objective} (trial {best.number})"
        if budget.seconds is not None:
            left = max(0.0, budget.get_search_seconds() - budget.get_elapsed())
            check = (budget.seconds - budget.get_search_seconds()) / 60
            state += f", {left / 60:.0f} min left, then {check:.0f} min with other seeds"
            done, total = budget.get_elapsed(), budget.get_search_seconds()
        else:
            done, total = len(trials), budget.trials or 0
        self._update("search", done, total, state)

    def show_runs(self, what: str, done: int, total: int) -> None:
        """Show the number of finished runs after the search."""
        self._update(what, done, total, f"{done} of {total} runs")

    def _update(self, what: str, done: float, total: float, state: str) -> None:
        if what not in self._tasks:
            self._tasks[what] = self.progress.add_task(what, state="")
        self.progress.update(self._tasks[what], completed=done, total=total, state=state)

    def _print_trial(self, trial: FrozenTrial, baseline: FrozenTrial | None) -> None:
        values = ", ".join(f"{key}={value}" for key, value in studies.get_values(trial).items()) or "current settings"
        values = escape(values)
        if trial.state == TrialState.FAIL:
            reason = escape(trial.user_attrs.get(studies.REASON, "stopped"))
            self.progress.console.print(f"[red]✗[/] trial {trial.number} failed: {reason} ({values})", highlight=False)
        elif trial.state == TrialState.COMPLETE and trial.user_attrs.get(studies.BASELINE):
            value = abs(trial.values[0])
            text = f"current settings: {self.experiment.objective} {value:.4f}"
            self.progress.console.print(f"[green]✓[/] {text}", highlight=False)
        elif trial.state == TrialState.COMPLETE and baseline is not None:
            gain = f"{trial.values[0] - baseline.values[0]:+.4f}"
            self.progress.console.print(f"[green]✓[/] trial {trial.number:<3} {gain}  {values}", highlight=False)
