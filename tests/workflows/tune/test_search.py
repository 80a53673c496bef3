"""The search with a fake objective: order of trials, rungs, limits, failures, decision and resuming."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from optuna.trial import TrialState
from scipy import stats

from star_ctr.conf.contracts.fingerprint import hash_code
from star_ctr.conf.errors import ConfigError, DataError
from star_ctr.workflows.tune import study as studies
from star_ctr.workflows.tune.gains import compute_gain_interval, compute_needed_gain
from star_ctr.workflows.tune.run import TuneResult, make_pairs
from star_ctr.workflows.tune.runs import Pair, Run, RunStore
from star_ctr.workflows.tune.search import Budget
from star_ctr.workflows.tune.space import make_space
from star_ctr.workflows.tune.study import make_study_name
from tests.conftest import ROOT
from tests.workflows.tune.fake_runs import (
    DROPOUT,
    EPOCHS,
    NIGHTS,
    SPACE,
    FakeRunner,
    list_calls,
    name,
    prepare,
    search,
)

pytestmark = pytest.mark.usefixtures("_one_code")
BETTER = {name(DROPOUT, 0.2): 0.01, name(DROPOUT, 0.3): 0.003, name(EPOCHS, 3): -0.02}


def get_states(result: TuneResult) -> Counter[TrialState]:
    return Counter(t.state for t in studies.list_trials(result.experiment.study))


def test_the_present_settings_are_the_first_trial_and_are_trained_on_all_pairs(tmp_path: Path) -> None:
    result = search(tmp_path, FakeRunner(tmp_path / "calls", BETTER))
    calls = list_calls(tmp_path / "calls")
    expected = [({}, night, seed) for seed in range(4) for night in ("2026-03-03", "2026-03-02")]
    assert calls[:8] == expected, "the newest night first"
    baseline = studies.get_baseline(result.experiment.study)
    assert baseline is not None
    assert baseline.number == 0
    assert baseline.values == [0.6]


def test_better_settings_are_proposed_and_compared_on_the_unseen_night(tmp_path: Path) -> None:
    result = search(tmp_path, FakeRunner(tmp_path / "calls", BETTER, noise=0.001))
    proposed = result.decision.proposed
    assert proposed is not None
    assert proposed.values[DROPOUT] == 0.2
    assert proposed.gain == pytest.approx(0.01, abs=0.002)
    calls = list_calls(tmp_path / "calls")
    seeds = {night: {seed for _, n, seed in calls if n == night} for night in (*NIGHTS.search, NIGHTS.unseen)}
    assert seeds == {
        "2026-03-02": {*range(8)}, "2026-03-03": {*range(8)}, "2026-03-04": {1000, 1001, 1002, 1003}
    }  # fmt: skip
    assert NIGHTS.newest not in {night for _, night, _ in calls}
    unseen = result.decision.unseen
    assert unseen is not None
    assert unseen.low < 0.01 < unseen.high
    assert unseen.gain == pytest.approx(np.mean(list(unseen.gains.values())))


def test_settings_that_are_worse_are_not_proposed(tmp_path: Path) -> None:
    worse = {name(DROPOUT, v): -0.01 for v in (0.1, 0.2, 0.3)} | {name(EPOCHS, v): -0.02 for v in (2, 3)}
    result = search(tmp_path, FakeRunner(tmp_path / "calls", worse))
    assert result.decision.proposed is None
    assert result.decision.candidates == []
    runs = Counter(str(values) for values, _, _ in list_calls(tmp_path / "calls"))
    assert runs.pop("{}") == 8, "only on the pairs of the search"
    assert sum(runs.values()) < 3 * len(runs), "most trials stop early"


def test_the_better_half_goes_on_at_each_rung(tmp_path: Path) -> None:
    """Asynchronous successive halving, repeated by hand from the recorded runs."""
    space = {DROPOUT: {"low": 0.0, "high": 0.5}}
    from star_ctr.workflows.tune.run import Options, run

    result = run(
        prepare(tmp_path, space=space),
        Options(30, None, 1, 2),
        FakeRunner(tmp_path / "calls", noise=0.01),
        ThreadPoolExecutor,
    )
    rungs: dict[int, list[float]] = {1: [], 2: [], 4: [], 8: []}
    for trial in studies.list_trials(result.experiment.study):
        values = [v for _, v in sorted(trial.intermediate_values.items())]
        for n in range(1, len(values) + 1):
            if n not in rungs:
                continue
            rungs[n].append(values[n - 1])
            better = sum(v > values[n - 1] for v in rungs[n]) < max(len(rungs[n]) // 2, 1)
            went_on = len(values) > n or n == 8 or trial.number == 0
            assert went_on == (better or n == 8 or trial.number == 0), (trial.number, n)
    assert len(rungs[1]) == 30
    assert len(rungs[1]) > len(rungs[2]) > len(rungs[8]) >= 2


def test_noise_is_rarely_a_reason_for_a_proposal() -> None:
    """Three candidates that are no better than the current settings: at most 1 - level of the searches propose one."""
    source, proposals = np.random.default_rng(0), 0
    for _ in range(2000):
        baseline = source.normal(size=8)
        gains = [source.normal(size=8) - baseline for _ in range(3)]
        proposals += any(np.mean(g) > compute_needed_gain(list(g), 3, 0.9)[1] for g in gains)
    assert 0.04 < proposals / 2000 < 0.11


@pytest.mark.parametrize(("user_noise", "seeds"), [(0.001, 4), (0.001, 16), (0.004, 16)])
def test_users_that_suit_a_trial_are_rarely_a_reason_for_a_proposal(user_noise: float, seeds: int) -> None:
    """Search and retraining share the test rows, so the luck of a trial with its users lasts for all seeds."""
    source, proposals = np.random.default_rng(0), 0
    for _ in range(500):
        luck = source.normal(0, user_noise, (20, 2, 1))  # 20 trials on two nights
        found = (luck + source.normal(0, 0.002, (20, 2, 4))).mean((1, 2))
        best = np.argsort(-found)[:3]
        gains = (luck[best] + source.normal(0, 0.002, (3, 2, seeds))).reshape(3, -1)
        proposals += any(np.mean(g) > compute_needed_gain(list(g), 20, 0.9, user_noise**2 / 2)[1] for g in gains)
    assert proposals / 500 < 0.12


def test_users_decide_whether_a_gain_is_significant(tmp_path: Path) -> None:
    certain = search(tmp_path / "a", FakeRunner(tmp_path / "calls-a", BETTER, noise=0.001), trials=25).decision
    assert certain.proposed is not None
    noisy = FakeRunner(tmp_path / "calls-b", BETTER, noise=0.001, user_noise=1.0)
    decision = search(tmp_path / "b", noisy, trials=25).decision
    assert decision.proposed is None
    assert decision.candidates[0].error > 5 * certain.candidates[0].error


def test_a_trial_outside_the_limits_is_not_a_candidate(tmp_path: Path) -> None:
    runner = FakeRunner(tmp_path / "calls", BETTER, auc_losses={name(DROPOUT, 0.2): 0.0011})
    proposed = search(tmp_path, runner, trials=25).decision.proposed
    assert proposed is not None
    assert proposed.values[DROPOUT] == 0.3
    loose = FakeRunner(tmp_path / "loose", BETTER, auc_losses={name(DROPOUT, 0.2): 0.0009})
    (tmp_path / "other").mkdir()
    proposed = search(tmp_path / "other", loose, trials=25).decision.proposed
    assert proposed is not None
    assert proposed.values[DROPOUT] == 0.2


def test_a_failed_trial_has_its_reason_and_the_search_goes_on(tmp_path: Path) -> None:
    runner = FakeRunner(tmp_path / "calls", BETTER, failing=(name(EPOCHS, 3),))
    result = search(tmp_path, runner)
    failed = [t for t in studies.list_trials(result.experiment.study) if t.state == TrialState.FAIL]
    assert failed
    assert {t.user_attrs["reason"] for t in failed} == {"the loss is not finite"}
    assert {t.user_attrs["values"][EPOCHS] for t in failed} == {3}
    assert result.decision.proposed is not None


def test_a_candidate_that_fails_with_another_seed_is_not_proposed(tmp_path: Path) -> None:
    class Failing(FakeRunner):
        first = 4

        def __call__(self, run: Run, scores: Path | None) -> object:  # type: ignore[override]
            if run.values.get(DROPOUT) == 0.2 and run.pair.seed >= self.first:
                raise DataError("the loss is not finite")
            return super().__call__(run, scores)

    class FailingUnseen(Failing):
        first = 1000

    for k, kind in enumerate((Failing, FailingUnseen)):
        folder = tmp_path / str(k)
        folder.mkdir()
        decision = search(folder, kind(folder / "calls", {name(DROPOUT, 0.2): 0.01}, noise=0.001)).decision
        reasons = [c.reason for c in decision.candidates if c.values.get(DROPOUT) == 0.2]
        assert reasons
        assert any("failed: the loss is not finite" in reason for reason in reasons)
        assert decision.proposed is None or decision.proposed.values.get(DROPOUT) != 0.2
        assert (decision.unseen is None) == (decision.proposed is None)


def test_present_settings_that_fail_stop_the_search(tmp_path: Path) -> None:
    class Failing(FakeRunner):
        def __call__(self, run: Run, scores: Path | None) -> object:  # type: ignore[override]
            raise DataError("the split is empty")

    with pytest.raises(DataError, match="the current settings cannot be used as the baseline: the split is empty"):
        search(tmp_path, Failing(tmp_path / "calls"))


def test_a_finished_search_trains_nothing_again(tmp_path: Path) -> None:
    runner = FakeRunner(tmp_path / "calls", BETTER, noise=0.001)
    first = search(tmp_path, runner)
    calls = list_calls(tmp_path / "calls")
    again = search(tmp_path, runner)
    assert list_calls(tmp_path / "calls") == calls
    assert again.decision == first.decision
    assert len(calls) == len({str(call) for call in calls})


def test_more_trials_continue_the_search(tmp_path: Path) -> None:
    runner = FakeRunner(tmp_path / "calls", BETTER, noise=0.001)
    search(tmp_path, runner, trials=4)
    result = search(tmp_path, runner, trials=9)
    assert sum(get_states(result).values()) == 9
    calls = list_calls(tmp_path / "calls")
    assert len(calls) == len({str(call) for call in calls})


def test_a_stopped_search_continues_with_its_unfinished_trial(tmp_path: Path) -> None:
    class Stopping(FakeRunner):
        def __call__(self, run: Run, scores: Path | None) -> object:  # type: ignore[override]
            if len(list_calls(self.calls)) == 6:
                raise KeyboardInterrupt
            return super().__call__(run, scores)

    with pytest.raises(KeyboardInterrupt):
        search(tmp_path, Stopping(tmp_path / "calls", BETTER))
    result = search(tmp_path, FakeRunner(tmp_path / "calls", BETTER))
    assert sum(get_states(result).values()) == 12
    undisturbed = tmp_path / "undisturbed"
    undisturbed.mkdir()
    expected = search(undisturbed, FakeRunner(undisturbed / "calls", BETTER))
    near = [[studies.get_values(t) for t in studies.list_trials(r.experiment.study)][:10] for r in (result, expected)]
    assert sorted(map(str, near[0])) == sorted(map(str, near[1])), "no trial is lost"
    calls = list_calls(tmp_path / "calls")
    assert len(calls) == len({str(call) for call in calls}), "no run is repeated"


def test_a_killed_search_is_resumed_by_two_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`kill -9` in the middle of a trial, and a journal whose last line is incomplete."""
    monkeypatch.setattr(studies, "hash_code", hash_code)  # as in the other processes
    command = [sys.executable, "-m", "tests.workflows.tune.fake_runs", str(tmp_path)]
    killed = subprocess.run([*command, "11"], cwd=ROOT, check=False, capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    assert len(list_calls(tmp_path / "calls")) == 11
    with (next((tmp_path / "warehouse/tune").iterdir()) / "journal.log").open("a") as journal:
        journal.write('{"op_code":')  # a line that a crash of the machine left incomplete
    both = [subprocess.Popen([*command, "0"], cwd=ROOT, stderr=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    calls = list_calls(tmp_path / "calls")
    assert len(calls) == len({str(call) for call in calls}), "no run is repeated"
    result = search(tmp_path, FakeRunner(tmp_path / "calls", {name(DROPOUT, 0.2): 0.01}, noise=0.001))
    assert list_calls(tmp_path / "calls") == calls, "nothing was left to do"
    assert sum(get_states(result).values()) == 12
    assert not [t for t in result.experiment.study.trials if t.state == TrialState.RUNNING]
    assert result.decision.proposed is not None


def test_another_process_that_trains_a_run_is_waited_for(tmp_path: Path) -> None:
    store, run = RunStore(tmp_path), Run({}, Pair("2026-03-02", 0))
    runner = FakeRunner(tmp_path / "calls")

    class Nested(FakeRunner):
        def __call__(self, run: Run, scores: Path | None) -> object:  # type: ignore[override]
            assert RunStore(tmp_path).train(run, runner) is None, "the run is locked"
            return super().__call__(run, scores)

    assert store.train(run, Nested(tmp_path / "calls")) == store.read(run)
    assert store.train(run, runner) == store.read(run)
    assert len(list_calls(tmp_path / "calls")) == 1


def test_the_study_changes_with_everything_that_makes_trials_comparable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def get_name(*overrides: str, objective: str = "gauc") -> str:
        prepared = prepare(tmp_path, overrides)
        return make_study_name(prepared, make_space(prepared.settings), objective)

    names = [
        get_name(),
        get_name("trainer.optimizer.lr=0.005"),
        get_name("trainer.seed=1"),
        get_name("window.days=2"),
        get_name("features.by_user.prior=7"),
        get_name('tune.space={"model.dim": {"values": [4]}}'),
        get_name("tune.limits.auc=0.002"),
        get_name(objective="auc"),
    ]
    monkeypatch.setattr(studies, "hash_code", lambda _: "other code")
    names.append(get_name())
    monkeypatch.setattr(studies, "hash_code", lambda _: "code")
    assert len(set(names)) == len(names)
    same = get_name("paths.logs=/elsewhere", "trainer.threads=2", "tune.candidates=2", "about=Something else.")
    assert same == names[0]
    other = prepare(tmp_path)._replace(nights=NIGHTS._replace(search=["2026-03-03"]))
    assert make_study_name(other, make_space(other.settings), "gauc") != names[0]


def test_seeds_are_used_once() -> None:
    pairs = make_pairs(NIGHTS, 7, 3)
    assert [p.seed for p in pairs.search] == [7, 7, 8, 8, 9, 9, 10, 10]
    assert [p.seed for p in pairs.fresh] == [11, 11, 12, 12, 13, 13]
    assert pairs.unseen == [Pair("2026-03-04", seed) for seed in (1007, 1008, 1009)]
    one = make_pairs(NIGHTS._replace(search=["2026-03-03"]), 0, 2)
    assert [p.seed for p in one.search] == [*range(8)]


def test_the_time_is_divided_between_the_search_and_other_seeds() -> None:
    budget = Budget(None, 600.0, final_runs=40, jobs=2)
    assert budget.get_search_seconds() == 300, "half, as long as no run has finished"
    budget.add_run(13.0)
    assert budget.get_search_seconds() == pytest.approx(300)
    budget.add_run(21.0)
    assert budget.get_search_seconds() == pytest.approx(600 - 20 * 17)
    budget.add_run(86.0)
    assert budget.get_search_seconds() == pytest.approx(240), "at least two fifths"
    assert budget.count_final_runs() == 40
    fast = Budget(None, 600.0, final_runs=40, jobs=2)
    fast.add_run(1.0)
    assert 1150 < fast.count_final_runs() <= 1200
    assert Budget(5, None, 40, 2).get_search_seconds() == math.inf


def test_the_needed_gain_is_that_of_a_corrected_t_test() -> None:
    gains = [0.004, 0.001, 0.003, 0.002, 0.005, 0.0, 0.002, 0.003]
    error, needed = compute_needed_gain(gains, 3, 0.9)
    assert error == pytest.approx(stats.sem(gains))
    for shift, expected in ((-1e-9, True), (1e-9, False)):
        shifted = np.array(gains) - np.mean(gains) + needed + shift
        p = stats.ttest_1samp(shifted, 0.0, alternative="greater").pvalue
        assert (p > 0.1 / 3) == expected


def test_the_interval_of_a_gain_covers_it() -> None:
    """Seeds and users vary; the 95% interval must contain the true gain about as often."""
    source, covered = np.random.default_rng(0), 0
    for _ in range(2000):
        of_users = source.normal(0, 0.001)
        gains = 0.002 + of_users + source.normal(0, 0.0015, 4)
        samples = np.mean(gains) + source.normal(0, 0.001, 200)
        low, high = compute_gain_interval(list(gains), samples, 0.95)
        covered += low <= 0.002 <= high
    assert 0.93 < covered / 2000 < 0.99


def test_wrong_ranges_are_named(tmp_path: Path) -> None:
    def get_problem(space: object) -> str:
        with pytest.raises(ConfigError) as caught:
            make_space(prepare(tmp_path, space=space).settings)
        return str(caught.value)

    assert "`model.dropot`: no such setting; did you mean `model.dropout`" in get_problem(
        {"model.dropot": {"values": [0]}}
    )
    assert "`model.layers` is not a number" in get_problem({"model.layers": {"low": 1, "high": 2}})
    assert "model.dropout: Input should be less than 1" in get_problem({"model.dropout": {"low": 0, "high": 2}})
    assert "set exactly one of" in get_problem({"model.dropout": {"factor": 2, "low": 1}})
    assert "cannot be searched" in get_problem({"trainer.threads": {"values": [1]}})
    assert "part of the split" in get_problem({"model.embeddings.user.min_count": {"values": [1]}})
    assert "cannot differ between training runs" in get_problem({"window.days": {"values": [1]}})
    assert SPACE
