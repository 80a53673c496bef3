"""Command that shows what a model uses: `explain`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from star_ctr.workflows.cli.base import Conf, Day, Json, Set, Wait, app, print_result, with_spark

_SHOWN = ("kind", "name", "GAUC", "interval", "AUC", "log loss")


@app.command()
def explain(
    conf: Conf,
    set: Set = None,
    ds: Day = None,
    run_id: Annotated[
        str | None,
        typer.Option("--run-id", metavar="RUN", help="Run to explain. By default, that of the night with --conf."),
    ] = None,
    rows: Annotated[
        int,
        typer.Option(min=1_000, metavar="N", help="Approximate number of test rows. More rows, narrower intervals."),
    ] = 50_000,
    out: Annotated[
        str | None, typer.Option(metavar="FILE", help="Picture to write. By default, build/explain/RUN.png.")
    ] = None,
    json: Json = None,
    wait: Wait = False,
) -> None:
    """Show which features a model uses.

    The importance of a feature is what GAUC, AUC and log loss lose if its values are exchanged at random among the test
    rows of a domain, with a confidence interval. Groups of features are exchanged together, because a feature may be
    unimportant only because another one says the same.

    Importances are those of the label, not of further outcomes (`label.also`).

    Writes the table `importance`, by feature and domain, and a picture. The nightly report then shows the ten most
    important features.

    For example:

        star-ctr explain --conf mine.yaml
    """
    from rich.console import Group
    from rich.text import Text

    from star_ctr.conf.contracts.catalog import Warehouse
    from star_ctr.conf.contracts.dates import check_day
    from star_ctr.conf.contracts.domains import OVERALL
    from star_ctr.conf.contracts.run_id import make_run_id
    from star_ctr.conf.errors import UserError
    from star_ctr.conf.load import load
    from star_ctr.jobs.registry.attempts import get_published_attempt
    from star_ctr.jobs.tools import explain as job
    from star_ctr.workflows.importance_figure import draw_importance
    from star_ctr.workflows.terminal import make_table

    settings = load(conf, set or [])
    warehouse = Warehouse(settings.paths)
    if not warehouse.list_finished_runs():
        raise UserError(f"{warehouse.models}: no finished run yet; run `star-ctr nightly --conf {conf}` first")
    if (run_id or ds) and not wait:  # another command may be training the run
        # Check this first, because starting Spark is slow.
        get_published_attempt(warehouse, run_id or make_run_id(settings, check_day(ds or "")))
    _, found = with_spark(
        "explain", conf, set, lambda s, spark: job.run(s, spark, ds, run_id, rows), writes=True, wait=wait
    )
    overall = [row for row in found if row["domain"] == OVERALL]
    file = Path(out or f"build/explain/{found[0]['run_id']}.png")
    draw_importance(overall, file)

    def render() -> Group:
        shown = [
            {
                **row,
                "GAUC": _round(row["gauc"]),
                "AUC": _round(row["auc"]),
                "log loss": _round(row["log_loss"]),
                "interval": _format(row),
            }
            for row in overall
        ]
        title = f"{found[0]['run_id']}: loss without a feature, on {overall[0]['rows']:,} test rows"
        return Group(make_table(shown, _SHOWN, title), Text(f"Wrote {file}. By domain: table `importance`."))

    print_result(found, json, render)


def _round(value: float | None) -> float | None:
    """Return a number as it is shown, without -0."""
    return None if value is None else round(value, 4) + 0.0


def _format(row: dict[str, Any]) -> str:
    if row["gauc_low"] is None:
        return "–"
    return f"{row['gauc_low']:+.4f} to {row['gauc_high']:+.4f}"
