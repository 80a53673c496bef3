"""The command line `star-ctr`: one module per group of commands."""

from __future__ import annotations

import importlib
import sys

from star_ctr.conf.errors import format_user_error
from star_ctr.workflows.cli.base import app, order_steps

_GROUPS = ("steps", "metrics", "logs", "nights", "serving", "report", "records", "compare", "tables", "reference")
for _group in _GROUPS:  # importing a module registers its commands; --help lists them in this order
    importlib.import_module(f"star_ctr.workflows.cli.{_group}")
order_steps(app.registered_commands)

__all__ = ["app", "main"]


def main() -> None:
    """Run a command; print errors that the user can fix without a traceback, and exit with code 1."""
    try:
        app()
    except Exception as error:
        if (message := format_user_error(error)) is None:
            raise
        sys.stderr.write(f"star-ctr: {message}\n")
        raise SystemExit(1) from None
