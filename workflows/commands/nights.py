"""Whole nights."""

from __future__ import annotations

import time

from star_ctr.workflows.commands import Conf, Day, Json, Set, app, printed, with_spark


@app.command()
def nightly(conf: Conf, set: Set = None, ds: Day = None, json: Json = None) -> None:
    """The whole night: ingest, features, split, train, score, evaluate; ends with the metrics by domain."""
    from star_ctr.conf.tables import Warehouse
    from star_ctr.workflows import nightly as night
    from star_ctr.workflows.display import err, metrics_table

    began = time.monotonic()
    settings, rows = with_spark("nightly", conf, set, lambda s, spark: night.run(s, spark, ds), progress=False)
    printed(rows, json, lambda: metrics_table(rows))
    err.print(f"{time.monotonic() - began:.0f} s; the model: {Warehouse(settings.paths).model(rows[0]['run_id'])}")
    err.print(f"The tables: star-ctr tables --conf {conf} (--show metrics)", highlight=False)
