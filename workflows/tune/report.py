"""Results of a search: the proposed settings as YAML, a report with plots, the trials as CSV, and JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from optuna.trial import TrialState

from star_ctr.workflows.compare.report import format_table
from star_ctr.workflows.tune import figures
from star_ctr.workflows.tune import study as studies
from star_ctr.workflows.tune.gains import compute_gains
from star_ctr.workflows.tune.overlay import write_overlay
from star_ctr.workflows.tune.run import TuneResult
from star_ctr.workflows.tune.runs import RunMetrics, compute_pcoc

NOTHING_FOUND = "No settings found that beat the current ones."
_STATES = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "stopped early", TrialState.FAIL: "failed"}


def write(result: TuneResult, conf: str, overrides: Sequence[str], command: str, folder: Path) -> dict[str, Any]:
    """Write `report.md`, the plots, `trials.csv`, and, if settings are proposed, `NAME-tuned.yaml`.

    Args:
        result: The result of the search.
        conf: The file of the data set, or the name of a configuration of this package.
        overrides: The overrides of the search.
        command: The command line, for the report.
        folder: The folder to write to; created if necessary.

    Returns:
        The result as JSON values, with the paths of the written files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    trials = make_trials_frame(result)
    trials.to_csv(folder / "trials.csv", index=False, float_format="%.7g")
    overlay = folder / f"{result.settings.name}-tuned.yaml"
    overlay.unlink(missing_ok=True)  # of an earlier search
    found = make_json(result, command)
    found["files"] = {"report": str(folder / "report.md"), "trials": str(folder / "trials.csv")}
    if result.decision.proposed:
        notes = [f"Proposed by: {command}", *_describe_gain(found)]
        write_overlay(overlay, conf, overrides, result.settings, result.decision.proposed.values, notes)
        found["files"]["settings"] = str(overlay)
    plots = figures.draw(trials, found, folder)
    (folder / "report.md").write_text(_make_report(result, found, trials, plots), encoding="utf-8")
    return found


def make_json(result: TuneResult, command: str) -> dict[str, Any]:
    """Return the result as JSON values.

    Args:
        result: The result of the search.
        command: The command line.

    Returns:
        The command, the study, the nights, the number of trials by state, the metrics of the current settings, the
        candidates, the proposed settings, and their gain on the unseen night.
    """
    experiment, decision = result.experiment, result.decision
    trials = studies.list_trials(experiment.study)
    baseline = [run for run in experiment.get_runs({}, experiment.pairs) if run is not None]
    found: dict[str, Any] = {
        "name": result.settings.name,
        "command": command,
        "study": experiment.study.study_name,
        "folder": str(experiment.store.folder.parent),
        "objective": experiment.objective,
        "nights": result.nights.search,
        "unseen_night": result.nights.unseen,
        "trials": {text: sum(t.state == state for t in trials) for state, text in _STATES.items()},
        "runs": sum(1 for _ in experiment.store.folder.glob("*.json")),
        "current": summarize(baseline),
        "candidates": [
            {
                "trial": c.trial,
                "values": c.values,
                "search_gain": c.search_gain,
                "gain": c.gain,
                "error": c.error,
                "needed": c.needed,
                "reason": c.reason,
                "pairs": {str(pair): gain for pair, gain in c.gains.items()},
                **c.changes,
            }
            for c in decision.candidates
        ],
        "proposed": decision.proposed.values if decision.proposed else None,
        "unseen": None,
    }
    if unseen := decision.unseen:
        pairs = {str(pair): gain for pair, gain in unseen.gains.items()}
        bounds = {"low": unseen.low, "high": unseen.high, "level": result.settings.evaluate.level}
        found["unseen"] = {"gain": unseen.gain, **bounds, "pairs": pairs, **unseen.changes}
    return {key: _drop_infinite(value) for key, value in found.items()}


def _drop_infinite(value: Any) -> Any:
    """Replace numbers that JSON does not have by None."""
    if isinstance(value, dict):
        return {key: _drop_infinite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_drop_infinite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def summarize(runs: Sequence[RunMetrics]) -> dict[str, Any]:
    """Return the mean metrics of some runs, PCOC pooled over them, and the mean training time in seconds."""
    names = ["auc", "gauc", "log_loss", "seconds"]
    means = pd.DataFrame([[getattr(run, name) for name in names] for run in runs], columns=names, dtype=float).mean()
    return {"runs": len(runs), **{name: float(means[name]) for name in names}, "pcoc": compute_pcoc(runs)}


def make_trials_frame(result: TuneResult) -> pd.DataFrame:
    """Return one row per trial: its state, number of runs, mean gain in the search, training time and settings."""
    experiment = result.experiment
    rows = []
    for trial in studies.list_trials(experiment.study):
        values = studies.get_values(trial)
        gains = compute_gains(experiment, values, experiment.pairs)
        runs = [run for run in experiment.get_runs(values, experiment.pairs) if run is not None]
        rows.append(
            {
                "trial": trial.number,
                "state": _STATES[trial.state],
                "runs": len(runs),
                "gain": sum(gains.values()) / len(gains) if gains and trial.state != TrialState.FAIL else None,
                "seconds": sum(run.seconds for run in runs),
                "reason": trial.user_attrs.get(studies.REASON, ""),
                **{d.key: _format_value(values.get(d.key, d.current)) for d in experiment.space},
            }
        )
    return pd.DataFrame(rows)


def _format_value(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list | dict | bool) or value is None else value


def _describe_gain(found: Mapping[str, Any]) -> list[str]:
    """Describe the gain of the proposed settings: one line for the search nights, one for the unseen night."""
    best = next(c for c in found["candidates"] if c["values"] == found["proposed"])
    objective, unseen = figures.NAMES[found["objective"]], found["unseen"]
    nights = " and ".join(found["nights"])
    lines = [
        f"Gain in {objective} on {nights}, with seeds that the search did not use: {best['gain']:+.4f} ± "
        f"{best['error']:.4f} (standard error)"
    ]
    bounds = (
        ""
        if unseen["low"] is None
        else f" ({unseen['level']:.0%} interval {unseen['low']:+.4f} to {unseen['high']:+.4f})"
    )
    return [*lines, f"Gain on the unseen night {found['unseen_night']}: {unseen['gain']:+.4f}{bounds}"]


def _make_report(result: TuneResult, found: Mapping[str, Any], trials: pd.DataFrame, plots: Mapping[str, str]) -> str:
    """Return the text of the report."""
    current, count = found["current"], found["trials"]
    parts = [
        f"# {found['name']}: tuning of model and trainer",
        f"    {found['command']}",
        f"Study `{found['study']}` in `{found['folder']}`. {sum(count.values())} trials "
        f"({', '.join(f'{n} {text}' for text, n in count.items())}), {found['runs']} training runs. Search nights: "
        f"{', '.join(found['nights'])}. Unseen night: {found['unseen_night']}. Gains are in "
        f"{figures.NAMES[found['objective']]}; positive is better.",
        f"Current settings on the search nights: AUC {current['auc']:.4f}, GAUC {current['gauc']:.4f}, log loss "
        f"{current['log_loss']:.4f}, PCOC {current['pcoc']:.2f}, {current['seconds']:.1f} s per training run.",
        "## Result",
        _describe_result(found),
    ]
    if found["candidates"]:
        parts += ["## Candidates", _EXPLANATION, _format_candidates(found)]
    parts += [f"## {title}\n\n![{title}]({file})" for title, file in plots.items()]
    parts += ["## Search space", _format_space(result)]
    failed = trials[trials["state"] == "failed"]
    if len(failed):
        rows = [[str(r.trial), str(r.reason)] for r in failed.itertuples()]
        parts += ["## Failed trials", format_table(["trial", "reason"], rows)]
    return "\n\n".join(parts) + "\n"


_EXPLANATION = (
    "The best trials were retrained with seeds that the search did not use. The gain in the search is too high, "
    "because a search picks the luckiest trials. A candidate is confirmed if its gain with other seeds exceeds the "
    "needed one and is positive on every night, and its metrics are within the limits. The best of these is proposed."
)


def _describe_result(found: Mapping[str, Any]) -> str:
    if found["proposed"] is None:
        return f"{NOTHING_FOUND} Keep them."
    changes = "\n".join(f"- `{key}: {json.dumps(value)}`" for key, value in sorted(found["proposed"].items()))
    file = Path(found["files"]["settings"]).name
    gains = " ".join(f"{line}." for line in _describe_gain(found))
    unseen = found["unseen"]
    costs = (
        f"On the unseen night, AUC changes by {unseen['auc']:+.4f}, GAUC by {unseen['gauc']:+.4f} and log loss by "
        f"{unseen['log_loss']:+.4f}; PCOC is {_format(unseen['pcoc'], '.2f')} (current settings: "
        f"{_format(unseen['current_pcoc'], '.2f')}). Training takes {_format(unseen['seconds_factor'], '.2f')} times "
        "as long."
    )
    return f"Proposed settings ([{file}]({file})):\n\n{changes}\n\n{gains} {costs}"


def _format(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _format_candidates(found: Mapping[str, Any]) -> str:
    rows = [
        [
            ", ".join(f"`{key}={json.dumps(value)}`" for key, value in sorted(c["values"].items())),
            str(c["trial"]),
            _format(c["search_gain"], "+.4f"),
            f"{_format(c['gain'], '+.4f')} ± {_format(c['error'], '.4f')}",
            _format(c["needed"], ".4f"),
            _format(c.get("auc"), "+.4f"),
            _format(c.get("pcoc"), ".2f"),
            c["reason"] or "confirmed",
        ]
        for c in found["candidates"]
    ]
    header = ["settings", "trial", "gain in the search", "with other seeds", "needed", "AUC", "PCOC", "result"]
    return format_table(header, rows)


def _format_space(result: TuneResult) -> str:
    rows = [[f"`{d.key}`", json.dumps(d.current), d.describe()] for d in result.experiment.space]
    return format_table(["key", "current", "values"], rows)


def list_rows(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the candidates as rows of a table for the terminal."""
    return [
        {
            "trial": c["trial"],
            "settings": ", ".join(f"{key}={json.dumps(value)}" for key, value in sorted(c["values"].items())),
            "search": _format(c["search_gain"], "+.4f"),
            "other seeds": f"{_format(c['gain'], '+.4f')} ± {_format(c['error'], '.4f')}",
            "needed": _format(c["needed"], ".4f"),
            "result": c["reason"] or ("proposed" if c["values"] == found["proposed"] else "confirmed"),
        }
        for c in found["candidates"]
    ]


def describe(found: Mapping[str, Any]) -> list[str]:
    """Return the result in a few lines, for the terminal."""
    if found["proposed"] is None:
        return [NOTHING_FOUND]
    return [*_describe_gain(found), f"Proposed settings: {found['files']['settings']}"]
