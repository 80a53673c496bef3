"""Steps of a night under spark-submit: `spark-submit jobs/STEP.py --conf CONF [--ds DAY] [--set key=value]`."""

from __future__ import annotations

import argparse
import sys

from star_ctr.conf.errors import format_user_error
from star_ctr.conf.load import load
from star_ctr.jobs.io.session import start
from star_ctr.workflows.lease import hold_lease
from star_ctr.workflows.nightly import choose_night, run_step


def main(name: str) -> None:
    """Run a step while holding the lease of the warehouse, and record it in the journal."""
    parser = argparse.ArgumentParser(prog=name, description=sys.modules["__main__"].__doc__)
    parser.add_argument("--conf", required=True, help="the data set's YAML file")
    parser.add_argument("--ds", default=None, help="the day, for example 2022-05-05; the newest by default")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    parser.add_argument("--wait", action="store_true", help="wait for another writer instead of failing")
    arguments = parser.parse_args()
    try:
        settings = load(arguments.conf, arguments.overrides)
        with hold_lease(settings, arguments.wait):
            spark = start(settings, f"star-ctr {name}")
            result = run_step(settings, spark, name, choose_night(settings, spark, name, arguments.ds), "asked for")
        print(f"{name}: {result}")
    except Exception as error:
        if message := format_user_error(error):
            raise SystemExit(f"{name}: {message}") from None
        raise
