"""Which model is served: what the gate decided, and what people decide."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from star_ctr.workflows.cli.base import AttemptNumber, Conf, Json, Set, app, print_result, print_values

if TYPE_CHECKING:
    from star_ctr.jobs.registry.decisions import Decision

RunId = Annotated[str, typer.Option("--run-id", metavar="RUN", help="The run, as `star-ctr serving` names it.")]
Why = Annotated[str, typer.Option("--why", help="The reason, for those who read the history.")]
By = Annotated[str | None, typer.Option("--by", help="Who decides; the user of this process if not given.")]


@app.command()
def serving(conf: Conf, set: Set = None, json: Json = None) -> None:
    """Which model is served, and every decision of the gate and of people that led there, with its reason."""
    from star_ctr.conf.load import load
    from star_ctr.jobs.registry import decisions
    from star_ctr.workflows.terminal import err, make_table

    found = decisions.Decisions(load(conf, set or [])).all()
    now = decisions.find_serving(found)
    columns = ["at", "ds", "run_id", "attempt", "outcome", "by", "reason"]
    rows = [{c: f"{d.at:%Y-%m-%d %H:%M}" if c == "at" else str(getattr(d, c)) for c in columns} for d in found]
    hold = decisions.find_manual_hold(found)
    result = {
        "serving": now and now.run_id,
        "attempt": now and now.attempt,
        "hold": hold and str(hold),
        "decisions": [{**r, "evidence": d.evidence} for r, d in zip(rows, found, strict=True)],
    }
    print_result(result, json, lambda: make_table(rows, columns))
    served = f"{now.run_id} (attempt {now.attempt})" if now else "no model yet"
    err.print(f"serving: {served}{f'; {hold}' if hold else ''}", highlight=False)


@app.command()
def promote(
    conf: Conf,
    run_id: RunId,
    why: Why,
    attempt: AttemptNumber = None,
    set: Set = None,
    by: By = None,
    json: Json = None,
) -> None:
    """Serve a run, regardless of what the gate decided; holds until the candidate of a newer night is judged."""
    from star_ctr.conf.load import load
    from star_ctr.jobs.registry.decisions import Decisions

    _print_decision(Decisions(load(conf, set or [])).promote(run_id, why, by, attempt), json)


@app.command()
def rollback(conf: Conf, why: Why, set: Set = None, by: By = None, json: Json = None) -> None:
    """Serve the previous serving model again; holds until the candidate of a newer night is judged."""
    from star_ctr.conf.load import load
    from star_ctr.jobs.registry.decisions import Decisions

    _print_decision(Decisions(load(conf, set or [])).rollback(why, by), json)


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
