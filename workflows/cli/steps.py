"""Commands for the steps of a night, and `simulate`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from star_ctr.conf.errors import UserError
from star_ctr.conf.settings.root import Settings
from star_ctr.workflows.cli.base import Conf, Day, Json, Set, Wait, app, print_result, print_values, with_spark


def _run_step(
    name: str, conf: str, overrides: list[str] | None, ds: str | None, wait: bool, *, full: bool = False
) -> Any:
    """Run a step with the lease and an entry in the journal, and return the result of its job."""
    from star_ctr.jobs.io.day_records import forget_days
    from star_ctr.workflows.nightly import choose_night, run_step

    def action(settings: Settings, spark: Any) -> Any:
        if full:
            forget_days(settings, name)
        return run_step(settings, spark, name, choose_night(settings, spark, name, ds), "requested")

    return with_spark(name, conf, overrides, action, progress=False, writes=True, wait=wait)[1]


def _run_and_print(
    name: str,
    conf: str,
    overrides: list[str] | None,
    ds: str | None,
    json: str | None,
    wait: bool,
    *,
    full: bool = False,
) -> None:
    """Run a step and print the values that it returns."""
    print_values(_run_step(name, conf, overrides, ds, wait, full=full), json)


Full = Annotated[
    bool,
    typer.Option("--full", help="Compute all days of the night again, even if their inputs are the same."),
]


@app.command()
def simulate(conf: Conf, set: Set = None, json: Json = None) -> None:
    """Generate simulated logs.

    Writes the logs that the section `simulate` of the configuration declares to the folder `paths.logs`, and replaces
    logs that exist there. docs/simulator.md describes the simulation.

    For example:

        star-ctr simulate --conf demo
    """
    from star_ctr.jobs.tools import simulate as job
    from star_ctr.workflows.terminal import make_table

    _, result = with_spark("simulate", conf, set, job.run)
    rows = [{"log": key, "rows": value} for key, value in result.items()]
    print_result(result, json, lambda: make_table(rows, ["log", "rows"]))


@app.command()
def ingest(
    conf: Conf, set: Set = None, ds: Day = None, json: Json = None, wait: Wait = False, full: Full = False
) -> None:
    """Step 1: clean the daily logs and write them to tables.

    Reads day D and the days of the training window before it. Drops and counts duplicates, and moves invalid rows to
    the table `quarantine` with a reason. Describes each day in the table `profile`. Prints the number of rows per log.
    Days whose files have not changed are not read again. With --full, logs without days start over (docs/nights.md).

    For example:

        star-ctr ingest --conf mine.yaml --ds 2026-03-04
    """
    _run_and_print("ingest", conf, set, ds, json, wait, full=full)


@app.command()
def features(
    conf: Conf, set: Set = None, ds: Day = None, json: Json = None, wait: Wait = False, full: Full = False
) -> None:
    """Step 2: label the impressions and compute their features.

    Joins the ingested tables, and adds sequences, statistics and attributes. All features are point-in-time: they only
    contain what was available at the time of the impression. Writes the tables `features`, `labels` and `profile`.

    Computes only days that are new or whose logs have changed, and labels that were still open. Earlier events come
    from the tables `history_counts` and `history_events`, which hold sums and the last events of each user by day.

    For example:

        star-ctr features --conf mine.yaml --ds 2026-03-04
    """
    _run_and_print("features", conf, set, ds, json, wait, full=full)


@app.command()
def split(conf: Conf, set: Set = None, ds: Day = None, json: Json = None, wait: Wait = False) -> None:
    """Step 3: encode training and test rows.

    The days of the training window become training rows, and day D becomes test rows. Writes the tables `split` and
    `vocabularies`.

    For example:

        star-ctr split --conf mine.yaml --ds 2026-03-04
    """
    _run_and_print("split", conf, set, ds, json, wait)


@app.command()
def train(
    conf: Conf,
    set: Set = None,
    ds: Day = None,
    json: Json = None,
    wait: Wait = False,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Fail unless training can resume from a checkpoint with the same data and settings. The message lists "
            "what has changed.",
        ),
    ] = False,
) -> None:
    """Step 4: train the model and export it.

    Trains on the training rows of the split. An interrupted run resumes from its last checkpoint if you run the
    command again with the same data and settings. docs/training.md describes training with several processes.

    For example:

        star-ctr train --conf mine.yaml --set trainer.processes=2
    """
    more = ["trainer.checkpoint.resume=require"] if resume else []
    _run_and_print("train", conf, [*(set or []), *more], ds, json, wait)


@app.command()
def score(
    conf: Conf,
    set: Set = None,
    ds: Day = None,
    json: Json = None,
    wait: Wait = False,
    run_id: Annotated[
        str | None, typer.Option(metavar="RUN", help="With --input: run whose model to use. Required.")
    ] = None,
    attempt: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="With --input: attempt of the run. By default, the serving one, otherwise the newest."
        ),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--input",
            metavar="TABLE",
            help="Score this Delta or Parquet table, which has the columns of the impression log, instead of the test "
            "rows of a night.",
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            "--output",
            metavar="TABLE",
            help="With --input: Delta table for the scores, which is replaced in one commit. Required.",
        ),
    ] = None,
    where: Annotated[
        str | None, typer.Option(metavar="SQL", help="With --input: score only rows that meet this condition.")
    ] = None,
    columns: Annotated[
        str | None, typer.Option(metavar="A,B,C", help="With --input: columns to copy from the input to the output.")
    ] = None,
    encoded: Annotated[
        bool,
        typer.Option(
            "--encoded",
            help="With --input: the rows are encoded like those of the table `split`, in the columns ints, floats and "
            "domain_id.",
        ),
    ] = False,
    unknown_domain: Annotated[
        Literal["other", "drop", "fail"] | None,
        typer.Option(
            help="With --input: what to do with rows of domains that the model does not know: score them as domain "
            "`other`, drop and count them, or fail. Defaults to the run's `domains.unknown` (`bucket` corresponds to "
            "`other`).",
        ),
    ] = None,
) -> None:
    """Step 5: score the test rows, or another table.

    Without --input, scores the test rows of a night with its exported model, and writes the table `scores`.

    With --input, scores any table with the model of any run. Features are computed as of the time of each row. Rows
    that cannot be scored go to the table OUTPUT_rejected with a reason. docs/scoring.md has the details.

    For example:

        star-ctr score --conf mine.yaml --ds 2026-03-04

        star-ctr score --conf mine.yaml --run-id RUN --input new --output scored
    """
    only_with_input = {
        "--run-id": run_id, "--attempt": attempt, "--output": target, "--where": where, "--columns": columns,
        "--encoded": encoded or None,
        "--unknown-domain": unknown_domain,
    }  # fmt: skip
    if source is None:
        given = [option for option, value in only_with_input.items() if value is not None]
        if given:
            raise UserError(f"{', '.join(given)}: only for scoring a table, which needs --input, --output and --run-id")
        _run_and_print("score", conf, set, ds, json, wait)
        return
    if run_id is None or target is None or ds is not None:
        raise UserError("--input: scoring a table needs --run-id and --output, and takes no --ds")
    from star_ctr.jobs.tools import batch_score as job

    names = [name.strip() for name in columns.split(",")] if columns else []
    _, result = with_spark(
        "score", conf, set,
        lambda s, spark: job.run(
            s, spark, run_id=run_id, source=source, target=target, where=where, columns=names, encoded=encoded,
            unknown_domain=unknown_domain, attempt=attempt,
        ),
    )  # fmt: skip
    shown = {key: value for key, value in result.items() if key != "reasons"}
    print_values(result, json, shown | {f"left out: {reason}": n for reason, n in result["reasons"].items()})


@app.command()
def gate(conf: Conf, set: Set = None, ds: Day = None, json: Json = None, wait: Wait = False) -> None:
    """Step 7: promote the night's model, or reject it for now (`held`).

    Compares the model with the serving model on the test rows, and checks PCOC, clicks and the amount of data. A
    promoted model is served from then on. `star-ctr serving` lists the decisions with their reasons. docs/nights.md
    describes the checks.

    For example:

        star-ctr gate --conf mine.yaml --ds 2026-03-04
    """
    _run_and_print("gate", conf, set, ds, json, wait)


@app.command()
def refit(conf: Conf, set: Set = None, ds: Day = None, json: Json = None, wait: Wait = False) -> None:
    """Step 8: retrain the promoted model with day D included.

    The refit is served instead of the promoted model if it passes its checks. This step only runs if gate.publish is
    `refit`; otherwise, the command does nothing.

    For example:

        star-ctr refit --conf mine.yaml --ds 2026-03-04
    """
    from star_ctr.conf.load import load
    from star_ctr.jobs.refit import explain_refit_disabled

    # Schedulers call this command every night. Without Spark, it takes about a second if there is nothing to do.
    if reason := explain_refit_disabled(load(conf, set or [])):
        print_values({"outcome": "nothing to refit", "reason": reason}, json)
        return
    _run_and_print("refit", conf, set, ds, json, wait)


@app.command()
def reference(conf: Conf, set: Set = None, ds: Day = None, json: Json = None, wait: Wait = False) -> None:
    """Step 9: compare the model with one trained from scratch.

    Trains a model, the reference, from scratch on the last days (reference.window_days). Writes the metrics of the
    night's model minus those of the reference to the table `differences`. The reference is never served. On nights that
    the section `reference` does not select, the command does nothing. docs/nights.md has the details.

    For example:

        star-ctr reference --conf mine.yaml --ds 2026-03-02
    """
    from star_ctr.conf.load import load
    from star_ctr.jobs.reference import explain_why_skipped

    # As for `refit`: schedulers call this command every night.
    if reason := explain_why_skipped(load(conf, set or []), ds):
        print_values({"outcome": "nothing to compare", "reason": reason}, json)
        return
    result = _run_step("reference", conf, set, ds, wait)
    print_values(result, json, {key: result[key] for key in ("run_id", "outcome", "reason")})
