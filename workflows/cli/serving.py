"""Commands for the serving model: `serving`, `promote` and `rollback`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from star_ctr.workflows.cli.base import AttemptNumber, Conf, Json, Set, app, print_result, print_values

if TYPE_CHECKING:
    from star_ctr.jobs.registry.decisions import Decision

RunId = Annotated[
    str, typer.Option("--run-id", metavar="RUN", help="Run to serve; `star-ctr serving` lists the run ids.")
]
Reason = Annotated[
    str, typer.Option("--reason", "--why", metavar="TEXT", help="Reason for the decision, for the table `decisions`.")
]
By = Annotated[
    str | None,
    typer.Option("--by", metavar="NAME", help="Author of the decision. By default, the user who runs the command."),
]


@app.command()
def serving(conf: Conf, set: Set = None, json: Json = None) -> None:
    """Show the serving model and all decisions.

    Lists every decision by the gate or a person, oldest first, with its reason. The last line names the run and the
    attempt that are served now, and a manual decision that is in force. Needs no Spark.

    With --json, each decision has the metrics that it was based on (`evidence`). If labels were open then,
    `final_metrics` has the metrics with final labels, once they are known.

    For example:

        star-ctr serving --conf mine.yaml
    """
    from star_ctr.conf.contracts.catalog import Warehouse
    from star_ctr.conf.contracts.run_id import strip_refit_suffix
    from star_ctr.conf.load import load
    from star_ctr.jobs.io.delta_rows import read_rows
    from star_ctr.jobs.registry import decisions
    from star_ctr.workflows.terminal import make_decisions_table, stderr

    settings = load(conf, set or [], with_recipe=False)
    found = decisions.Decisions(settings).read_all()
    final: dict[str, list[dict[str, Any]]] = {}
    for row in read_rows(Warehouse(settings.paths).table("final_metrics")):
        final.setdefault(row["run_id"], []).append(row)
    now = decisions.find_serving(found)
    columns = ["at", "ds", "run_id", "attempt", "outcome", "by", "reason"]
    rows = [{c: f"{d.at:%Y-%m-%d %H:%M}" if c == "at" else str(getattr(d, c)) for c in columns} for d in found]
    override = decisions.find_manual_override(found)
    result = {
        "serving": now and now.run_id,
        "attempt": now and now.attempt,
        "override": override and str(override),
        "decisions": [
            # The metrics of the evaluated attempt apply to a refit.
            {
                **r,
                "evidence": d.evidence,
                "final_metrics": [
                    m
                    for m in final.get(strip_refit_suffix(d.run_id), [])
                    if m["attempt"] == d.attempt or d.run_id != m["run_id"]
                ],
            }
            for r, d in zip(rows, found, strict=True)
        ],
    }
    print_result(result, json, lambda: make_decisions_table(rows))
    model = f"{now.run_id} (attempt {now.attempt})" if now else "no model yet"
    stderr.print(f"serving: {model}{f'; {override}' if override else ''}", highlight=False)


@app.command()
def promote(
    conf: Conf,
    run_id: RunId,
    reason: Reason,
    attempt: AttemptNumber = None,
    set: Set = None,
    by: By = None,
    json: Json = None,
) -> None:
    """Serve a run, regardless of what the gate decided.

    The decision holds until the candidate of a newer night is evaluated. Also use it to accept a lasting change of the
    data, for example of the click rate: the gate then no longer compares with nights before that run.

    For example:

        star-ctr promote --conf mine.yaml --run-id RUN --reason "bad traffic that day; the model is fine"
    """
    from star_ctr.conf.load import load
    from star_ctr.jobs.registry.decisions import Decisions
    from star_ctr.workflows.run_log import log_to_warehouse

    settings = load(conf, set or [], with_recipe=False)
    with log_to_warehouse(settings, "promote"):
        decision = Decisions(settings).promote(run_id, reason, by, attempt)
    _print_decision(decision, json)


@app.command()
def rollback(conf: Conf, reason: Reason, set: Set = None, by: By = None, json: Json = None) -> None:
    """Roll back to the previously served model.

    The decision holds until the candidate of a newer night is evaluated. `star-ctr serving` lists the decisions.

    For example:

        star-ctr rollback --conf mine.yaml --reason "complaints about the feed"
    """
    from star_ctr.conf.load import load
    from star_ctr.jobs.registry.decisions import Decisions
    from star_ctr.workflows.run_log import log_to_warehouse

    settings = load(conf, set or [], with_recipe=False)
    with log_to_warehouse(settings, "rollback"):
        decision = Decisions(settings).rollback(reason, by)
    _print_decision(decision, json)


def _print_decision(decision: Decision, json: str | None) -> None:
    result = {
        "serving": decision.run_id,
        "attempt": decision.attempt,
        "before": decision.reference_run_id,
        "before_attempt": decision.reference_attempt,
        "outcome": str(decision.outcome),
        "by": decision.by,
    }
    print_values(result, json, {k: v or "none" for k, v in result.items()})
