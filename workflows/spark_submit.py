"""Steps of a night under spark-submit.

Usage: `spark-submit jobs/STEP.py --conf CONF [--ds DAY] [--set KEY=VALUE] [--wait]`
"""

from __future__ import annotations

import argparse
import sys

from star_ctr.conf.load import load
from star_ctr.conf.recipe import apply_recipe
from star_ctr.jobs.io.external_errors import format_error
from star_ctr.jobs.io.session import start
from star_ctr.workflows.lease import hold_lease
from star_ctr.workflows.nightly import choose_night, run_step
from star_ctr.workflows.run_log import log_to_warehouse


def main(name: str) -> None:
    """Parse the command line, and run a step with the lease of the warehouse and an entry in the journal.

    Args:
        name: Name of the step.

    Raises:
        SystemExit: The user can fix the error; the message describes it.
    """
    parser = argparse.ArgumentParser(prog=name, description=sys.modules["__main__"].__doc__)
    parser.add_argument("--conf", required=True, help="YAML file of the data set")
    parser.add_argument("--ds", default=None, help="day of the night, for example 2022-05-05; the newest by default")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides",
        help="override a setting, for example trainer.seed=1; may be repeated",
    )  # fmt: skip
    parser.add_argument("--wait", action="store_true", help="wait for another writer instead of failing")
    arguments = parser.parse_args()
    try:
        given = load(arguments.conf, arguments.overrides, with_recipe=False)
        with hold_lease(given, arguments.wait), log_to_warehouse(given, name):
            settings = apply_recipe(given)
            spark = start(settings, f"star-ctr {name}")
            result = run_step(settings, spark, name, choose_night(settings, spark, name, arguments.ds), "requested")
        print(f"{name}: {result}")
    except Exception as error:
        if message := format_error(error):
            raise SystemExit(f"{name}: {message}") from None
        raise
