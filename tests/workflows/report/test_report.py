"""The text of the report on generated nights, including nights with missing data."""

from __future__ import annotations

import html
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from star_ctr.conf.contracts.domains import OVERALL
from star_ctr.conf.errors import DataError
from star_ctr.conf.load import load
from star_ctr.jobs.registry.decisions import Decisions, Outcome
from star_ctr.workflows.report import night, quality
from star_ctr.workflows.report.data import collect
from star_ctr.workflows.report.headline import render_headline
from star_ctr.workflows.report.page import render
from tests.published import publish
from tests.workflows.synthetic_nights import DOMAINS, NIGHTS, SyntheticNights

LAST, BEFORE = NIGHTS[-1], NIGHTS[-2]


@pytest.fixture
def warehouse(tmp_path: Path) -> SyntheticNights:
    return SyntheticNights(tmp_path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> SyntheticNights:
    warehouse = SyntheticNights(tmp_path_factory.mktemp("nights"))
    warehouse.nights()
    return warehouse


class Text(HTMLParser):
    """Parser that collects the words of a page, and each tag with its attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def words(part: str) -> str:
    return re.sub(r"\s+", " ", " ".join(Text(part).words)).strip()


def test_the_report_shows_the_newest_night_of_its_settings(whole: SyntheticNights) -> None:
    data = collect(whole.settings)
    assert (data.ds, data.previous_night, list(data.nights)) == (LAST, BEFORE, list(NIGHTS))
    assert set(data.metrics) == {*DOMAINS, OVERALL}
    assert [night[OVERALL]["run_id"] for night in data.nights.values()] == [whole.run(ds) for ds in NIGHTS]
    assert data.serving_metrics["home"]["run_id"] == f"{whole.run(NIGHTS[0])}@{LAST}"
    assert {r["reference_run_id"] for r in data.differences.values()} == {f"{whole.run(NIGHTS[0])}@{LAST}"}
    assert collect(whole.settings, NIGHTS[1]).ds == NIGHTS[1]
    assert list(collect(whole.settings, NIGHTS[1]).nights) == list(NIGHTS[:2]), "later nights are not shown"


def test_runs_of_other_settings_are_ignored(warehouse: SyntheticNights) -> None:
    warehouse.metrics(BEFORE)
    warehouse.metrics(LAST, f"{LAST}-star-pn-aux-s1-{collect(warehouse.settings).settings_hash}")
    data = collect(warehouse.settings)
    assert (data.ds, list(data.nights)) == (BEFORE, [BEFORE])


def test_final_metrics_are_shown_beside_provisional_ones(warehouse: SyntheticNights) -> None:
    warehouse.metrics(LAST, gauc=0.6, rows=1000, open_labels=800)
    shown = words(render_headline(collect(warehouse.settings)))
    assert "Provisional: 800 of 1,000 labels were open when the gate decided. A later night computes" in shown
    final = {
        "run_id": warehouse.run(LAST),
        "attempt": 1,
        "ds": LAST,
        "domain": OVERALL,
        "gauc": 0.6543,
        "as_of": "2026-01-11",
    }
    warehouse.write("final_metrics", [final | {"auc": 0.7, "pcoc": 1.0, "rows": 1000}])
    shown = words(render_headline(collect(warehouse.settings)))
    assert "GAUC 0.6000" in shown
    assert "final: 0.6543" in shown
    assert "Night 2026-01-11 computed the final values." in shown


def test_metrics_are_shown_with_their_changes(warehouse: SyntheticNights) -> None:
    warehouse.metrics(BEFORE, gauc=0.61, auc=0.72, pcoc=1.2, log_loss=0.15, ece=0.002, rows=1000, clicks=40)
    warehouse.metrics(
        LAST,
        gauc=0.6234,
        auc=0.71,
        pcoc=0.9,
        log_loss=0.14,
        ece=0.003,
        rows=1234,
        clicks=40,
        gauc_low=0.62,
        gauc_high=0.65,
    )
    data = collect(warehouse.settings)
    tiles = render_headline(data)
    for now, by, kind in (
        ("0.6234", "▲ 0.0134", "good"),
        ("0.7100", "▼ 0.0100", "bad"),
        ("0.900", "▼ 0.300", "good"),
        ("1,234", "▲ 234", "flat"),
    ):
        assert f'<p class="big">{now}</p><p class="small"><span class="{kind}">{by}</span>' in tiles
    assert "0.6200 to 0.6500" in words(tiles)
    table = words(quality.render_by_domain(data))
    assert "home 0.6234 ▲ 0.0134 0.6200 to 0.6500" in table
    assert '<tr class="few"><th>home</th>' in quality.render_by_domain(data), "fewer than gate.domain_rows"
    assert "0.1400 ▼ 0.0100 0.0030 ▲ 0.0010 1,234 ▲ 234 40 ± 0" in table


def test_missing_intervals_and_metrics_are_not_shown(warehouse: SyntheticNights) -> None:
    warehouse.intervals = False
    warehouse.metrics(BEFORE)
    warehouse.metrics(LAST)
    page = render(collect(warehouse.settings), "")
    assert " to 0." not in words(page)
    assert 'class="band"' not in page
    nulls = SyntheticNights(warehouse.folder / "nulls")
    ends = {f"{m}_{e}": None for m in ("auc", "gauc") for e in ("low", "high")}
    nulls.metrics(LAST, gauc=None, auc=None, pcoc=float("nan"), **ends)
    page = render(collect(nulls.settings), "")
    assert '<p class="big">–</p>' in page
    assert "nan" not in page


@pytest.mark.parametrize(
    ("outcome", "kind", "text"),
    [
        (Outcome.PROMOTED, "good", "Promoted Because. It is served from now on."),
        (Outcome.HELD, "bad", "Held Because. The serving model does not change."),
        (Outcome.TOO_SMALL, "warn", "Not enough data Because."),
        (
            Outcome.REFIT_HELD,
            "warn",
            "Promoted, refit held Because. The promoted weights stay in service.",
        ),
        (Outcome.PROMOTED_MANUALLY, "good", "Promoted manually Because."),
    ],
)
def test_the_decision_is_described(warehouse: SyntheticNights, outcome: Outcome, kind: str, text: str) -> None:
    warehouse.metrics(LAST)
    assert '<header class="none">' in render_headline(collect(warehouse.settings))
    assert "No decision" in render_headline(collect(warehouse.settings))
    warehouse.decide(LAST, outcome, "because")
    top = render_headline(collect(warehouse.settings))
    assert f'<header class="{kind}">' in top
    assert text in words(top)


def test_a_rollback_is_shown_in_the_reports_of_both_nights(warehouse: SyntheticNights) -> None:
    for ds in (BEFORE, LAST):
        warehouse.metrics(ds)
        warehouse.decide(ds, Outcome.PROMOTED, "better")
    publish(warehouse.settings, warehouse.run(BEFORE), BEFORE)
    Decisions(warehouse.settings).rollback("clicks fell", by="ann")
    last, before = (words(render_headline(collect(warehouse.settings, ds))) for ds in (LAST, BEFORE))
    assert "Rolled back Clicks fell. (ann) An earlier model is served instead." in last
    assert "promoted by gate: better" in last
    assert "Served again Clicks fell. (ann) A later model was rolled back." in before
    assert "Served now: this night’s model" in before


def test_the_ledger_shows_rows_and_reasons(whole: SyntheticNights) -> None:
    kept = words(night.render_ledger(collect(whole.settings)))
    sizes = [int(24_000 / (k + 1) ** 1.3) for k in range(len(DOMAINS))]
    out, left_out = sum(sizes), sum(20 + k + 3 for k in range(len(DOMAINS)))
    assert f"ingest {out + left_out:,} {out:,} {left_out}" in kept
    assert "duplicate: 110" in kept
    assert "click after the attribution window: 45" in kept
    assert "time cannot be read: 5 day unknown 5" in kept
    assert f"features {out:,} {out:,} 0 split.test {out:,} {out:,} 0 score" in kept
    assert "than rows out of the previous step" not in kept


def test_rows_that_vanish_between_two_steps_are_shown(warehouse: SyntheticNights) -> None:
    warehouse.metrics(LAST)
    run = warehouse.run(LAST)
    steps = [("data", "split.test", 100), (run, "score", 98), (run, "evaluate", 98)]
    rows = [
        {"run_id": r, "ds": LAST, "domain": "home", "step": s, "rows_in": n, "rows_out": n, "reason": ""}
        for r, s, n in steps
    ]
    warehouse.write("ledger", rows)
    assert "score 98 98 0 rows in: 2 fewer than rows out of the previous step evaluate 98 98 0" in words(
        night.render_ledger(collect(warehouse.settings))
    )


@pytest.mark.parametrize(
    ("counts", "is_marked"),
    [
        ([(100, 100, "")], False),
        ([(80, 80, ""), (20, 0, "no click, not sampled")], False),
        ([(100, 98, "")], True),
        ([(100, 102, "")], True),
        ([(80, 79, ""), (20, 0, "no click, not sampled")], True),
    ],
)
def test_rows_that_a_run_lost_without_a_reason_are_marked(
    warehouse: SyntheticNights, counts: list[tuple[int, int, str]], is_marked: bool
) -> None:
    warehouse.metrics(LAST)
    names = ("rows_in", "rows_out", "reason")
    same = {"run_id": warehouse.run(LAST), "ds": LAST, "domain": "home", "step": "train"}
    warehouse.write("ledger", [{**same, **dict(zip(names, row, strict=True))} for row in counts])
    assert ('<td class="bad">' in night.render_ledger(collect(warehouse.settings))) == is_marked


def test_durations_states_and_failed_steps_are_shown(warehouse: SyntheticNights) -> None:
    warehouse.nights()
    data = collect(warehouse.settings)
    assert "alarms" not in render_headline(data)
    assert all(row["state"] == "done" for row in data.step_states)
    chart = night.render_durations(data)
    assert chart.count("<rect") == 7 * len(NIGHTS)
    seconds = next(e.seconds for e in warehouse.entries if (e.ds, e.step) == (LAST, "train"))
    assert f"{int(round(seconds or 0) // 60)}:{round(seconds or 0) % 60:02d}" in words(night.render_states(data))
    warehouse.step("2026-01-09", "ingest")
    warehouse.step("2026-01-09", "features", "failed", error="DataError: disk <full>")
    top = render_headline(collect(warehouse.settings))
    assert "Features of 2026-01-09 failed: DataError: disk &lt;full&gt;" in top
    assert collect(warehouse.settings).ds == LAST, "the newest night that has metrics"
    assert "This night has no metrics." in render_headline(collect(warehouse.settings, "2026-01-09"))


def test_the_record_shows_the_inputs_of_the_run(warehouse: SyntheticNights) -> None:
    warehouse.metrics(LAST)
    warehouse.record(LAST, start="2026-01-07-star")
    data = collect(warehouse.settings)
    text = words(night.render_record(data))
    for fact in (
        warehouse.run(LAST),
        data.settings_hash,
        "split version 7",
        "from 2026-01-07-star",
        "681,299",
        "1.2e-07",
    ):
        assert fact in text
    assert "12,074" in words(night.render_training(data))


def test_a_single_night_is_reported_without_other_data(warehouse: SyntheticNights) -> None:
    warehouse.metrics(LAST)
    text = words(render(collect(warehouse.settings), "star-ctr report"))
    for sentence in (
        "The gate has not decided",
        "No model is served yet.",
        "There is no earlier night to compare with.",
        "This night’s model was not compared with the serving model.",
        "The ledger has no rows of this night.",
        "There is no training record of this night.",
        "The journal has no durations of these nights.",
        "The journal has no entries for these settings.",
    ):
        assert sentence in text


def test_a_missing_night_is_rejected_with_the_available_nights(warehouse: SyntheticNights) -> None:
    with pytest.raises(DataError, match="no metrics of any night.*run `star-ctr nightly`"):
        collect(warehouse.settings)
    warehouse.metrics(LAST)
    with pytest.raises(
        DataError, match=rf"no metrics of the night {BEFORE} .*nights with metrics: {LAST}\).*--ds {BEFORE}"
    ):
        collect(warehouse.settings, BEFORE)


def test_names_are_escaped_and_no_external_resources_are_loaded(whole: SyntheticNights) -> None:
    page = Text(render(collect(whole.settings), "star-ctr report --conf '<b>'"))
    assert "script" not in {tag for tag, _ in page.tags}
    assert html.unescape(DOMAINS[3]) in page.words
    references = [
        value for _, attrs in page.tags for name, value in attrs.items() if name in ("src", "href", "srcset", "data")
    ]
    assert references == ["data:,"]
    assert not re.search(r"url\(|@import|https?://", " ".join(page.words))


def test_the_command_needs_no_spark(whole: SyntheticNights, tmp_path: Path) -> None:
    file = tmp_path / "of" / "today.html"
    code = (
        "import sys; from star_ctr.workflows.cli import app\n"
        f"app(['report', '--conf', 'demo', '--set', 'paths.warehouse={whole.folder}', '--out', '{file}'], standalone_mode=False)\n"
        "slow = {'pyspark', 'torch', 'matplotlib', 'petastorm'} & set(sys.modules); assert not slow, slow"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert str(file) in done.stderr.replace("\n", "")
    assert "Promoted" in file.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("gauc", "high", "is_alarm"),
    [(-0.02, -0.01, True), (-0.02, 0.001, False), (-0.0005, -0.0001, False), (0.02, 0.03, False)],
)
def test_a_model_that_is_worse_than_its_reference_raises_an_alarm(
    tmp_path: Path, gauc: float, high: float, is_alarm: bool
) -> None:
    incremental = ["trainer.warm_start=previous", "split.vocabulary=grown", "reference={}"]
    warehouse = SyntheticNights(tmp_path)
    warehouse.settings = load("demo", [f"paths.warehouse={tmp_path}", *incremental])
    for ds in (BEFORE, LAST):
        warehouse.metrics(ds)
    warehouse.differences(LAST, "served")
    assert "from scratch" not in render(collect(warehouse.settings), "")
    warehouse.gap(NIGHTS[0], -0.1, -0.05)  # without metrics
    warehouse.gap(BEFORE, gauc, high)
    data = collect(warehouse.settings)
    assert [gap["ds"] for gap in data.gaps] == [BEFORE], "the newest night has no reference"
    assert {r["reference_run_id"] for r in data.differences.values()} == {f"served@{LAST}"}
    words_of_alarm = "On 2026-01-07, GAUC of the model that continues from earlier nights was 0.0200 (0.0100 to 0.0300)"
    assert (words_of_alarm in words(render_headline(data))) == is_alarm
    page = words(render(data, ""))
    assert "Comparison with training from scratch" in page
    assert f"01-07: GAUC {gauc:+.4f}" in page
    assert "trained from scratch on 7 days" in page
    without = load("demo", [f"paths.warehouse={tmp_path}", *incremental[:-1]])
    assert "from scratch" not in render(collect(without), "")


def test_a_comparison_with_a_reference_is_not_shown_as_one_with_the_serving_model(tmp_path: Path) -> None:
    warehouse = SyntheticNights(tmp_path)
    warehouse.metrics(LAST)
    warehouse.gap(LAST, -0.02, -0.01)
    assert collect(warehouse.settings).differences == {}
    assert "was not compared with the serving model" in render(collect(warehouse.settings), "")
