"""Report of a comparison: the paper's tables as Markdown, PNG figures, main numbers as JSON, and metrics as CSV."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from star_ctr.conf.contracts.domains import OVERALL
from star_ctr.conf.settings.compare import NO_AUX_SUFFIX, Plan
from star_ctr.model.cost import Cost
from star_ctr.workflows.compare import figures
from star_ctr.workflows.compare.run import Results
from star_ctr.workflows.compare.tables import (  # fmt: skip
    BASE,
    PAPER_GAUC,
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
"""Title of the plan whose ranking of models is compared with the paper's."""
METRICS = {"gauc": "GAUC (eq. 9)", "auc": "AUC", "log_loss": "log loss"}


def write(results: Results, command: str, folder: Path) -> Path:
    """Write `report.md`, `results.json`, `metrics.csv` and the figures.

    Args:
        results: The results of the comparison.
        command: The command line that ran the comparison, for the report.
        folder: The folder to write to; created if necessary.

    Returns:
        The path of `report.md`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    metrics = make_frame(results.rows)
    parts = [f"# {results.name}: comparison of models", f"    {command}", _format_table_1(results.shares)]
    planned = {m for plan in results.comparison.plans for m in plan.models}
    for plan in results.comparison.plans:
        parts += _format_plan(metrics, plan, planned)
    parts += _format_ablations(metrics)
    parts += _draw_figures(metrics, folder)
    parts += [_format_cost(results.costs, results.seconds), _format_settings(results)]
    report = folder / "report.md"
    report.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    (folder / "results.json").write_text(json.dumps(make_json(results, command), indent=1) + "\n", encoding="utf-8")
    metrics.to_csv(folder / "metrics.csv", index=False, float_format="%.7g")
    return report


def make_json(results: Results, command: str) -> dict[str, Any]:
    """Return the numbers of the report as JSON values, without the rows of `metrics.csv`.

    Args:
        results: The results of the comparison.
        command: The command line that ran the comparison.

    Returns:
        The command, the plans with their means, rows and clicks by domain, the paired differences from Base, the order
        of models compared with the paper's, costs, mean training times in seconds, and the overrides of each model.
    """
    metrics = make_frame(results.rows)
    return {
        "command": command,
        "plans": [
            {
                **plan.model_dump(mode="json"),
                "means": {metric: _compute_means(select_plan(metrics, plan), metric) for metric in (*METRICS, "pcoc")},
            }
            for plan in results.comparison.plans
        ],
        "shares": results.shares,
        "against_base": {
            model: {metric: asdict(p) if (p := compare_pairs(metrics, model, metric)) else None for metric in METRICS}
            for model in dict.fromkeys(metrics["compared"])
            if model != BASE
        },
        "order": {
            table: dict(zip(("models", "kendall_tau"), o, strict=True))
            if (o := compare_order(metrics, table))
            else None
            for table in PAPER_GAUC
        },
        "costs": {model: asdict(cost) for model, cost in results.costs.items()},
        "training_seconds": results.seconds,
        "overrides": {model: results.comparison.list_overrides(model) for model in results.costs},
    }


def _compute_means(metrics: pd.DataFrame, metric: str) -> dict[str, dict[str, float | None]]:
    """Return the means of a metric by model and domain; None if the metric is undefined."""
    table = compute_means(metrics, metric)
    return {str(m): {str(d): None if pd.isna(v) else float(v) for d, v in table[m].items()} for m in table.columns}


def format_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; the first column contains text, the others contain numbers."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _format_table_1(shares: Sequence[dict[str, Any]]) -> str:
    total = sum(r["rows"] for r in shares)
    rows = [
        (r["domain"], f"{r['rows']:,}", f"{100 * r['rows'] / total:.2f}%", f"{100 * r['clicks'] / r['rows']:.2f}%")
        for r in shares
    ]
    return "## Table 1: training days of the last night\n\n" + format_table(["domain", "rows", "share", "CTR"], rows)


def _format_plan(metrics: pd.DataFrame, plan: Plan, planned: set[str]) -> list[str]:
    """Return the tables of a plan, with the models that have all of its nights and seeds.

    Table 2 contains all such models, except those of Tables 3 and 4 and those without the auxiliary network. Tables of
    other plans contain the models of the plan and external models.
    """
    part = select_plan(metrics, plan)
    models = list(dict.fromkeys(part["compared"]))
    if plan.title == TABLE:
        excluded = {m for table in ("Table 3", "Table 4") for m in PAPER_GAUC[table]} - set(PAPER_GAUC[TABLE])
        shown = [m for m in models if m not in excluded and not m.endswith((NO_AUX_SUFFIX, "_single"))]
    else:
        shown = [m for m in models if m in plan.models or m not in planned]
    part = part[part["compared"].isin(shown)]
    nights = f"{len(plan.nights)} nights" if len(plan.nights) > 1 else "one night"
    seeds = f"{plan.seeds} seeds" if plan.seeds > 1 else "one seed"
    parts = [
        f"## {plan.title}: {len(shown)} models, {nights} ({plan.nights[0]} to {plan.nights[-1]}), {seeds}",
        "Values are means over nights and seeds; ± is the standard deviation over seeds of the mean over nights. p is "
        f"the p-value of a paired t-test against Base, over {len(plan.nights) * plan.seeds} pairs of night and seed. "
        f"{_format_verdict(part)}",
    ]
    for metric, name in METRICS.items():
        parts += [f"### {name}", _format_by_domain(part, metric)]
    return [*parts, *_format_order(part, TABLE)] if plan.title == TABLE else parts


def _format_verdict(part: pd.DataFrame) -> str:
    """Return sentences with the highest overall GAUC and the models that differ significantly from Base."""
    overall = compute_means(part, "gauc").loc[OVERALL]
    best = f"{format_model(str(overall.idxmax()))} has the highest overall GAUC: {overall.max():.4f}."
    tests = {m: compare_pairs(part, m, "gauc") for m in overall.index if m != BASE and BASE in overall.index}
    significant = [
        f"{format_model(m)} ({t.difference:+.4f})" for m, t in tests.items() if t and t.p is not None and t.p < 0.05
    ]
    return f"{best} Models that differ from Base with p < 0.05: {', '.join(significant) or 'none'}."


def _format_by_domain(part: pd.DataFrame, metric: str) -> str:
    table, spread = compute_means(part, metric), compute_deviations(part, metric)
    models = list(table.columns)
    rows = []
    for domain, values in table.iterrows():
        best = values.min() if metric == "log_loss" else values.max()
        cells = [_format_bold(f"{v:.4f}", v == best) if pd.notna(v) else "–" for v in values]
        if domain == OVERALL:
            cells = [c + _format_spread(spread.get(m, float("nan"))) for c, m in zip(cells, models, strict=True)]
        rows.append([str(domain), *cells])
    if BASE in models:
        tests = {m: compare_pairs(part, m, metric) for m in models if m != BASE}
        rows.append(["difference from Base", *(f"{t.difference:+.4f}" if (t := tests.get(m)) else "" for m in models)])
        rows.append(["p", *(_format_p(t.p) if (t := tests.get(m)) else "" for m in models)])
    return format_table(["domain", *(format_model(m) for m in models)], rows)


def _format_bold(text: str, bold: bool) -> str:
    return f"**{text}**" if bold else text


def _format_p(p: float | None) -> str:
    return "–" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def _format_order(part: pd.DataFrame, table: str) -> list[str]:
    """Return a sentence about the order of the models; empty if too few models of the table were trained."""
    order = compare_order(part, table)
    if order is None:
        return []
    models, tau = order
    ranks = " > ".join(format_model(m) for m in models)
    return [f"Models by overall GAUC, highest first: {ranks}. Kendall's tau with the paper's order: {tau:+.2f}."]


def _format_ablations(metrics: pd.DataFrame) -> list[str]:
    """Return Tables 3 and 4, also with single-domain batches, for the nights and seeds that all models have."""
    parts = []
    for table, extra in {"Table 3": (), "Table 4": ("star_bn_single", "star_ln_single")}.items():
        part = select_common(metrics, [*PAPER_GAUC[table], *extra])
        overall, spread = (
            part[part["domain"] == OVERALL].groupby("compared")["gauc"].mean(),
            compute_deviations(part, "gauc"),
        )
        models = [m for m in (*PAPER_GAUC[table], *extra) if m in overall.index]
        if not set(models) - set(PAPER_GAUC[TABLE]):
            continue
        rows = []
        for m in models:
            test = compare_pairs(part, m, "gauc", base=models[0]) if m != models[0] else None
            rows.append(
                [
                    format_model(m), f"{overall[m]:.4f}{_format_spread(spread[m])}",
                    f"{test.difference:+.4f}" if test else "", _format_p(test.p) if test else "",
                    f"{PAPER_GAUC[table][m]:.4f}" if m in PAPER_GAUC[table] else "",
                ]
            )  # fmt: skip
        header = ["model", "overall GAUC", f"difference from {format_model(models[0])}", "p", "in the paper"]
        parts += [f"## {table}", format_table(header, rows), *_format_order(part, table)]
    return parts


def _format_spread(spread: float) -> str:
    """Format a standard deviation over seeds; empty for one seed."""
    return "" if pd.isna(spread) else f" ± {spread:.4f}"


def _draw_figures(metrics: pd.DataFrame, folder: Path) -> list[str]:
    both = _select_with_and_without(metrics)
    drawn = {
        "Figure 6: overall GAUC with and without the auxiliary network": ("figure6.png", figures.draw_auxiliary, both),
        "Figure 7: PCOC (predicted clicks / actual clicks) by domain": (
            "figure7.png",
            figures.draw_calibration,
            select_common(metrics, [BASE, "star"]),
        ),
        "Difference from Base by night and seed": ("differences.png", figures.draw_differences, metrics),
    }
    return [
        f"## {name}\n\n![{name}]({file}){_format_auxiliary(both) if part is both else ''}"
        for name, (file, draw, part) in drawn.items()
        if draw(part, folder / file)
    ]


def _select_with_and_without(metrics: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of all models trained with and without the auxiliary network, for common nights and seeds."""
    names = set(metrics["compared"])
    pairs = [(m, m + NO_AUX_SUFFIX) for m in names if m + NO_AUX_SUFFIX in names]
    return select_common(metrics, [m for pair in pairs for m in pair])


def _format_auxiliary(part: pd.DataFrame) -> str:
    """Return the table for Figure 6: overall GAUC with and without the auxiliary network."""
    overall = compute_means(part, "gauc").loc[OVERALL]
    rows = []
    for m in overall.index:
        test = compare_pairs(part, m, "gauc", base=m + NO_AUX_SUFFIX)
        if test is not None:
            values = [
                f"{overall[m]:.4f}",
                f"{overall[m + NO_AUX_SUFFIX]:.4f}",
                f"{test.difference:+.4f}",
                _format_p(test.p),
            ]
            rows.append([format_model(m), *values])
    return "\n\n" + format_table(["model", "with", "without", "difference", "p"], rows)


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
    header = [
        "model", "parameters", "training step (ms)", "relative to Base", "prediction of 2000 rows (ms)",
        "relative to Base", "training (s)",
    ]  # fmt: skip
    note = (
        "Measured on one thread, with all models in turns. A training step processes one batch of the model's trainer. "
        "The last column is the mean duration of a complete training run."
    )
    return f"## Cost\n\n{note}\n\n{format_table(header, rows)}"


def _format_settings(results: Results) -> str:
    lines = [
        f"- {format_model(m)}: " + " ".join(f"`--set {shlex.quote(o)}`" for o in results.comparison.list_overrides(m))
        for m in results.costs
    ]
    return "\n".join(["## Settings\n\nTo train one of the models, run `star-ctr nightly` with its options:\n", *lines])
