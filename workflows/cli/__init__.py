"""The command line `star-ctr`: one module per group of commands."""

from __future__ import annotations

import importlib
import sys

from star_ctr.workflows.cli.base import app, order_steps

_GROUPS = (
    "init", "check", "recipe", "steps", "metrics", "logs", "nights", "serving", "report", "records", "explain",
    "compare", "domains", "tune", "tables", "reference",
)  # fmt: skip
for _group in _GROUPS:  # importing a module registers its commands; --help lists them in this order
    importlib.import_module(f"star_ctr.workflows.cli.{_group}")
order_steps(app.registered_commands)

__all__ = ["app", "main"]


def main() -> None:
    """Run a command.

    Errors in the data, in the settings or of the machine are printed as a message without a traceback, and the exit
    code is 1. Ctrl-C ends a command with the exit code 130.
    """
    try:
        app()
    except Exception as error:
        from star_ctr.jobs.io.external_errors import format_error
        from star_ctr.workflows.run_log import record_error

        if (message := format_error(error)) is None:
            raise
        log = record_error(error)
        lines = [f"star-ctr: {message}", *getattr(error, "__notes__", [])]
        sys.stderr.write("\n".join([*lines, f"The full error is in {log}"] if log else lines) + "\n")
        raise SystemExit(1) from None
