"""The report of a comparison: Markdown with the paper's tables, PNG figures, and all of it as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from star_ctr.conf.contracts.encoded_row import OVERALL
from star_ctr.conf.settings.compare import WITHOUT_AUX, Plan
from star_ctr.model.cost import Cost
from star_ctr.workflows.compare import figures
from star_ctr.workflows.compare.run import Results
from star_ctr.workflows.compare.tables import (  # fmt: skip
    BASE,
    IN_PAPER,
    compare_order,
    compare_pairs,
    compute_deviations,
    compute_means,
    format_model,
    make_frame,
    select_common,
    select_plan,
)

TABLE = "Table 2"
METRICS = {"gauc": "GAUC (eq. 9)", "auc": "AUC", "log_loss": "log loss"}


def write(results: Results, command: str, folder: Path) -> Path:
    """Write `report.md`, `results.json`, `metrics.csv` and the figures into `folder`; returns the report's path."""
    folder.mkdir(parents=True, exist_ok=True)
    found = make_frame(results.rows)
    parts = [f"# {results.name}: models compared", f"    {command}", _format_table_1(results.shares)]
    planned = {m for plan in results.comparison.plans for m in plan.models}
    for plan in results.comparison.plans:
        parts += _format_plan(found, plan, planned)
    parts += _format_ablations(found)
    parts += _draw_figures(found, folder)
    parts += [_format_cost(results.costs, results.seconds), _format_settings(results)]
    report = folder / "report.md"
    report.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    (folder / "results.json").write_text(json.dumps(make_json(results, command), indent=1) + "\n", encoding="utf-8")
    found.to_csv(folder / "metrics.csv", index=False, float_format="%.7g")
    return report


def make_json(results: Results, command: str) -> dict[str, Any]:
    """Everything that the report says; the rows that it stems from are those of `metrics.csv`."""
    found = make_frame(results.rows)
    return {
        "command": command,
        "plans": [
            {
                **plan.model_dump(mode="json"),
                "means": {metric: _compute_means(select_plan(found, plan), metric) for metric in (*METRICS, "pcoc")},
            }
            for plan in results.comparison.plans
        ],
        "shares": results.shares,
        "against_base": {
            model: {metric: asdict(p) if (p := compare_pairs(found, model, metric)) else None for metric in METRICS}
            for model in dict.fromkeys(found["compared"])
            if model != BASE
        },
        "order": {
            table: dict(zip(("models", "kendall_tau"), o, strict=True)) if (o := compare_order(found, table)) else None
            for table in IN_PAPER
        },
        "costs": {model: asdict(cost) for model, cost in results.costs.items()},
        "training_seconds": results.seconds,
        "overrides": {model: results.comparison.overrides(model) for model in results.costs},
    }


def _compute_means(found: pd.DataFrame, metric: str) -> dict[str, dict[str, float | None]]:
    """By model and domain, over the nights and seeds of a plan; None where a metric is undefined."""
    table = compute_means(found, metric)
    return {str(m): {str(d): None if pd.isna(v) else float(v) for d, v in table[m].items()} for m in table.columns}


def format_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table whose first column is text and whose others are numbers."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _format_table_1(shares: Sequence[dict[str, Any]]) -> str:
    total = sum(r["rows"] for r in shares)
    rows = [
        (r["domain"], f"{r['rows']:,}", f"{100 * r['rows'] / total:.2f}%", f"{100 * r['clicks'] / r['rows']:.2f}%")
        for r in shares
    ]
    return "## Table 1: the training days of the last night\n\n" + format_table(
        ["domain", "rows", "share", "CTR"], rows
    )


def _format_plan(found: pd.DataFrame, plan: Plan, planned: set[str]) -> list[str]:
    """Tables of a plan's models and of outside ones; Table 2 takes in others that have all of its nights and seeds.

    Not those of Tables 3 and 4, though, nor those without the auxiliary network.
    """
    part = select_plan(found, plan)
    models = list(dict.fromkeys(part["compared"]))
    if plan.title == TABLE:
        other = {m for table in ("Table 3", "Table 4") for m in IN_PAPER[table]} - set(IN_PAPER[TABLE])
        shown = [m for m in models if m not in other and not m.endswith((WITHOUT_AUX, "_single"))]
    else:
        shown = [m for m in models if m in plan.models or m not in planned]
    part = part[part["compared"].isin(shown)]
    nights = f"{len(plan.nights)} nights" if len(plan.nights) > 1 else "one night"
    seeds = f"{plan.seeds} seeds" if plan.seeds > 1 else "one seed"
    parts = [
        f"## {plan.title}: {len(shown)} models, {nights} ({plan.nights[0]} to {plan.nights[-1]}), {seeds}",
        "Means over nights and seeds; ± is the deviation over seeds of the mean over nights; p is of a paired t-test "
        f"over {len(plan.nights) * plan.seeds} pairs of night and seed against Base. {_format_verdict(part)}",
    ]
    for metric, name in METRICS.items():
        parts += [f"### {name}", _format_by_domain(part, metric)]
    return [*parts, *_format_order(part, TABLE)] if plan.title == TABLE else parts


def _format_verdict(part: pd.DataFrame) -> str:
    """The best model by overall GAUC, and which differ from Base by more than chance."""
    overall = compute_means(part, "gauc").loc[OVERALL]
    best = f"The best overall GAUC is {format_model(str(overall.idxmax()))}'s, {overall.max():.4f}"
    tests = {m: compare_pairs(part, m, "gauc") for m in overall.index if m != BASE and BASE in overall.index}
    sure = [
        f"{format_model(m)} ({t.difference:+.4f})" for m, t in tests.items() if t and t.p is not None and t.p < 0.05
    ]
    return f"{best}; differs from Base's with p < 0.05: {', '.join(sure) or 'none'}."


def _format_by_domain(part: pd.DataFrame, metric: str) -> str:
    table, spread = compute_means(part, metric), compute_deviations(part, metric)
    models = list(table.columns)
    rows = []
    for domain, values in table.iterrows():
        best = values.min() if metric == "log_loss" else values.max()
        cells = [_format_bold(f"{v:.4f}", v == best) if pd.notna(v) else "–" for v in values]
        if domain == OVERALL:
            cells = [
                c + (f" ± {spread[m]:.4f}" if pd.notna(spread.get(m)) else "")
                for c, m in zip(cells, models, strict=True)
            ]
        rows.append([str(domain), *cells])
    if BASE in models:
        tests = {m: compare_pairs(part, m, metric) for m in models if m != BASE}
        rows.append(["less Base", *(f"{t.difference:+.4f}" if (t := tests.get(m)) else "" for m in models)])
        rows.append(["p", *(_format_p(t.p) if (t := tests.get(m)) else "" for m in models)])
    return format_table(["domain", *(format_model(m) for m in models)], rows)


def _format_bold(text: str, bold: bool) -> str:
    return f"**{text}**" if bold else text


def _format_p(p: float | None) -> str:
    return "–" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def _format_order(part: pd.DataFrame, table: str) -> list[str]:
    """One line, or none where too few of the table's models were trained."""
    order = compare_order(part, table)
    if order is None:
        return []
    models, tau = order
    ranks = " > ".join(format_model(m) for m in models)
    return [f"By overall GAUC: {ranks}; Kendall's tau with the paper's order {tau:+.2f}."]


def _format_ablations(found: pd.DataFrame) -> list[str]:
    """Tables 3 and 4, and the same models under batches of one domain; on the nights and seeds that all have."""
    parts = []
    for table, extra in {"Table 3": (), "Table 4": ("star_bn_single", "star_ln_single")}.items():
        part = select_common(found, [*IN_PAPER[table], *extra])
        overall, spread = (
            part[part["domain"] == OVERALL].groupby("compared")["gauc"].mean(),
            compute_deviations(part, "gauc"),
        )
        models = [m for m in (*IN_PAPER[table], *extra) if m in overall.index]
        if not set(models) - set(IN_PAPER[TABLE]):
            continue
        rows = []
        for m in models:
            test = compare_pairs(part, m, "gauc", base=models[0]) if m != models[0] else None
            rows.append(
                [
                    format_model(m), f"{overall[m]:.4f} ± {spread[m]:.4f}",
                    f"{test.difference:+.4f}" if test else "", _format_p(test.p) if test else "",
                    f"{IN_PAPER[table][m]:.4f}" if m in IN_PAPER[table] else "",
                ]
            )  # fmt: skip
        header = ["model", "overall GAUC", f"less {format_model(models[0])}", "p", "in the paper"]
        parts += [f"## {table}", format_table(header, rows), *_format_order(part, table)]
    return parts


def _draw_figures(found: pd.DataFrame, folder: Path) -> list[str]:
    both = _select_with_and_without(found)
    drawn = {
        "Figure 6: with and without the auxiliary network": ("figure6.png", figures.draw_auxiliary, both),
        "Figure 7: predicted over actual clicks by domain": (
            "figure7.png",
            figures.draw_calibration,
            select_common(found, [BASE, "star"]),
        ),
        "Every night and seed": ("differences.png", figures.draw_differences, found),
    }
    return [
        f"## {name}\n\n![{name}]({file}){_format_auxiliary(both) if part is both else ''}"
        for name, (file, draw, part) in drawn.items()
        if draw(part, folder / file)
    ]


def _select_with_and_without(found: pd.DataFrame) -> pd.DataFrame:
    """The rows of the models that have a twin without the auxiliary network, and of the twins, on what all have."""
    names = set(found["compared"])
    twins = [(m, m + WITHOUT_AUX) for m in names if m + WITHOUT_AUX in names]
    return select_common(found, [m for pair in twins for m in pair])


def _format_auxiliary(part: pd.DataFrame) -> str:
    """Figure 6 in numbers."""
    overall = compute_means(part, "gauc").loc[OVERALL]
    rows = []
    for m in overall.index:
        test = compare_pairs(part, m, "gauc", base=m + WITHOUT_AUX)
        if test is not None:
            values = [
                f"{overall[m]:.4f}",
                f"{overall[m + WITHOUT_AUX]:.4f}",
                f"{test.difference:+.4f}",
                _format_p(test.p),
            ]
            rows.append([format_model(m), *values])
    return "\n\n" + format_table(["overall GAUC", "with", "without", "difference", "p"], rows)


def _format_cost(costs: dict[str, Cost], seconds: dict[str, float]) -> str:
    base = costs.get(BASE)
    rows = []
    for model, c in costs.items():
        times = [f"{c.step_ms / base.step_ms:.2f}", f"{c.predict_ms / base.predict_ms:.2f}"] if base else ["", ""]
        rows.append(
            [
                format_model(model), f"{c.parameters:,}", f"{c.step_ms:.1f}", times[0], f"{c.predict_ms:.1f}", times[1],
                f"{seconds[model]:.1f}",
            ]
        )  # fmt: skip
    header = ["model", "parameters", "step, ms", "x Base's", "2000 rows predicted, ms", "x Base's", "a training, s"]
    words = "On one thread, all models taking turns; a step has the rows of a batch of its trainer."
    return f"## Cost\n\n{words}\n\n{format_table(header, rows)}"


def _format_settings(results: Results) -> str:
    lines = [
        f"- {format_model(m)}: " + " ".join(f"`--set {o}`" for o in results.comparison.overrides(m))
        for m in results.costs
    ]
    return "\n".join(["## Settings\n\nAny of them can be trained alone with `star-ctr nightly` and:\n", *lines])
