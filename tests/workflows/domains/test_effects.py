"""Effects of domains on each other: compared with a loop in pandas, and with Holm's correction by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from star_ctr.conf.errors import DataError, UserError
from star_ctr.conf.load import load
from star_ctr.conf.settings.trainer import DataSettings
from star_ctr.features.evaluation.paired_differences import compute_mean_difference
from star_ctr.jobs.tools.run_estimates import METRICS, RowSubset, RunEstimate
from star_ctr.workflows.domains.effects import JOINT, Effect, compute_effects, list_parts, name_alone, name_without
from star_ctr.workflows.domains.page import describe_findings, render
from star_ctr.workflows.domains.report import make_json, make_terminal_table, write
from star_ctr.workflows.domains.run import DomainMetrics, Results, choose_domains, iter_models
from star_ctr.workflows.terminal import stdout

DOMAINS, NIGHTS, SEEDS = ["a", "b", "c"], ["2026-01-01", "2026-01-02"], range(3)
KEY = ["model", "night", "seed", "domain", "is_rest"]


def make_estimates() -> dict[tuple[str, str, int, RowSubset], RunEstimate]:
    """Make random metrics. The joint model is better on `a` than that of `a` alone; without `c`, the others are better."""
    rng = np.random.default_rng(0)
    shared = rng.normal(0, 0.01, 101)
    found = {}
    for model, part in list_parts(DOMAINS, [*DOMAINS, "small"]):
        level = 0.7
        level -= 0.05 if model == name_alone("a") else 0
        level += 0.03 if model == name_without("c") else 0
        for night in NIGHTS:
            for seed in SEEDS:
                noise = shared + rng.normal(0, 0.002, 101)
                samples = {"gauc": level + noise, "auc": level + noise / 2, "log_loss": 0.8 - level - noise}
                found[model, night, seed, part] = RunEstimate(samples, users=900, gauc_users=400.0)
    return found


def test_effects_match_a_loop_over_a_data_frame() -> None:
    estimates = make_estimates()
    rows = pd.DataFrame(
        [(*key[:3], key[3].domain, key[3].is_rest, m, e.samples[m]) for key, e in estimates.items() for m in METRICS],
        columns=[*KEY, "metric", "samples"],
    ).set_index([*KEY, "metric"])["samples"]
    effects = compute_effects(estimates, DOMAINS, NIGHTS, SEEDS, 0.95)
    assert len(effects) == len(METRICS) * (3 + 3 + 6)
    for effect in effects:
        reference = name_alone(effect.domain) if effect.family == "gain" else name_without(effect.domain)
        part = (effect.domain, True) if effect.on is None else (effect.on, False)
        by_seed = []
        for seed in SEEDS:
            pairs = [
                rows[JOINT, n, seed, *part, effect.metric] - rows[reference, n, seed, *part, effect.metric]
                for n in NIGHTS
            ]
            by_seed.append(sum(pairs) / 2 * (-1 if effect.metric == "log_loss" else 1))
        want = compute_mean_difference(np.array(by_seed), 400.0 if effect.metric == "gauc" else 900, 0.95)
        assert want is not None
        assert (effect.low, effect.high, effect.p) == pytest.approx((want.low, want.high, want.p))
        assert effect.value == pytest.approx(want.value)
    verdicts = {(e.metric, e.family, e.domain): e.verdict for e in effects if e.family != "pair"}
    for metric in METRICS:
        assert verdicts[metric, "gain", "a"] == "gains"
        assert verdicts[metric, "others", "c"] == "harms"
        assert verdicts[metric, "others", "a"] == verdicts[metric, "gain", "b"] == "no significant effect"


def test_verdicts_are_corrected_for_the_number_of_domains(monkeypatch: pytest.MonkeyPatch) -> None:
    # By hand: 0.01 <= 0.05 / 3; 0.03 > 0.05 / 2, so the second and all larger ones are not significant.
    p_values = iter([0.03, 0.01, 0.04] * 100)
    from star_ctr.workflows.domains import effects as module

    def set_p(effect: Effect, *_: object) -> Effect:
        return replace(effect, value=-0.1, low=-0.2, high=0.0, p=next(p_values))

    monkeypatch.setattr(module, "_compute", set_p)
    found = compute_effects({}, DOMAINS, NIGHTS, SEEDS, 0.95)
    gains = [e for e in found if e.family == "gain" and e.metric == "gauc"]
    assert [e.is_significant for e in gains] == [False, True, False]
    assert [e.verdict for e in gains] == ["no significant effect", "is harmed", "no significant effect"]
    others = [e for e in found if e.family == "others" and e.metric == "gauc"]
    assert [e.verdict for e in others] == ["no significant effect", "harms", "no significant effect"]


def test_a_part_without_users_of_both_classes_has_no_verdict_and_is_no_test() -> None:
    estimates = make_estimates()
    for key, found in estimates.items():
        if key[3] == RowSubset("b"):
            samples = {**found.samples, "gauc": np.full(101, np.nan)}
            estimates[key] = RunEstimate(samples, found.users, 0.0)
    effects = compute_effects(estimates, DOMAINS, NIGHTS, SEEDS, 0.95)
    gain = next(e for e in effects if (e.family, e.metric, e.domain) == ("gain", "gauc", "b"))
    assert (gain.value, gain.verdict, gain.is_significant) == (None, "too few users", False)
    assert next(e for e in effects if (e.family, e.metric, e.domain) == ("gain", "gauc", "a")).verdict == "gains"


def test_domains_with_few_clicks_are_left_out_unless_they_are_named() -> None:
    nights = [{"a": (1000, 150), "b": (900, 300), "c": (50, 9)}, {"a": (1100, 90), "b": (800, 200), "c": (60, 8)}]
    assert choose_domains(nights, [], 50) == (["b", "a"], {"c": 8})
    assert choose_domains(nights, ["c", "a"], 50) == (["a", "c"], {})
    with pytest.raises(UserError, match=r"--min-clicks 100: fewer than two .* are b \(200\), a \(90\), c \(8\)"):
        choose_domains(nights, [], 100)
    with pytest.raises(UserError, match="--domains: .* `aa`; did you mean `a`"):
        choose_domains(nights, ["aa"], 1)
    with pytest.raises(DataError, match="from one domain"):
        choose_domains([{"a": (10, 5)}], ["a"], 1)


@pytest.mark.parametrize("conf", [{}, {"exclude_domains": ["d"]}, {"domains": ["a", "b", "c"]}])
def test_models_are_settings_that_select_domains(conf: dict[str, list[str]]) -> None:
    data, everything = DataSettings.model_validate(conf), ["a", "b", "c", "d"]
    trained = [d for d in everything if data.is_selected(d)]
    given = [f"trainer.data.{key}={value}" for key, value in conf.items()]
    for name, overrides in iter_models(data, ["a", "b"], trained):
        settings = load("demo", [*given, *overrides])
        used = [d for d in everything if settings.trainer.data.is_selected(d)]
        want = {JOINT: trained} | {name_alone(d): [d] for d in "ab"}
        want |= {name_without(d): [e for e in trained if e != d] for d in "ab"}
        assert used == want[name], name
    two = dict(iter_models(DataSettings(), ["a", "b"], ["a", "b"]))
    assert two[name_without("a")] == two[name_alone("b")], "one run"


def make_results() -> Results:
    metrics = {m: {"gauc": 0.61234, "auc": 0.7, "log_loss": 0.2, "pcoc": 1.01} for m in ("joint", "alone", "without")}
    metrics["without"]["gauc"] = None
    domains = [DomainMetrics(d, 1000, 100, 300, 30, metrics) for d in ("<a>", "b", "c")]
    names = {"a": "<a>"}
    effects = [
        replace(e, domain=names.get(e.domain, e.domain), on=e.on and names.get(e.on, e.on))
        for e in compute_effects(make_estimates(), DOMAINS, NIGHTS, SEEDS, 0.95)
    ]
    return Results("shop", NIGHTS, 3, 0.95, domains, effects, {"small": 12}, 100, {JOINT: []})


def test_the_page_shows_verdicts_intervals_and_domains_left_out() -> None:
    results = make_results()
    assert describe_findings(results) == [
        "c harms the other domains; consider excluding it (trainer.data.exclude_domains)",
        "<a> gains from the other domains",
    ]
    page = render(results, "star-ctr domains")
    assert page.count("<svg") == 6
    assert page.count("background:rgba") == 3 * (6 + 3)
    assert "<a>" not in page
    for text in ("c harms the other domains", "small (12)", "fewer than 100 clicks", "0.6123", "Holm", "&lt;a&gt;"):
        assert text in page


def test_files_and_table_contain_the_effects(tmp_path: object, capsys: pytest.CaptureFixture[str]) -> None:
    from pathlib import Path

    results, folder = make_results(), Path(str(tmp_path)) / "out"
    assert write(results, "star-ctr domains", folder) == folder / "report.html"
    table = pd.read_csv(folder / "effects.csv", keep_default_na=False)
    assert list(table["value"]) == pytest.approx([e.value for e in results.effects], rel=1e-6)
    assert list(table["verdict"]) == [e.verdict for e in results.effects]
    assert set(table.loc[table["family"] == "others", "on"]) == {""}
    found = pd.read_json(folder / "results.json", typ="series")
    assert found["findings"] == describe_findings(results)
    assert len(make_json(results, "")["effects"]) == len(table)
    stdout.print(make_terminal_table(results))
    printed = capsys.readouterr().out
    assert "harms" in printed
    assert "small" in printed
