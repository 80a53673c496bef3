"""The way in of `star-ctr`: all commands, a file of `workflows.commands` for each kind."""

from __future__ import annotations

import importlib
import sys

from star_ctr.conf.errors import message_for_user
from star_ctr.workflows.commands import app

_KINDS = ("steps", "metrics", "logs", "nights", "publishing", "reports", "records", "comparisons", "tables")
for _kind in _KINDS:  # the order in which --help lists them
    importlib.import_module(f"star_ctr.workflows.commands.{_kind}")

__all__ = ["app", "main"]


def main() -> None:
    """Run the command; an error that a user can mend is printed without a traceback."""
    try:
        app()
    except Exception as error:
        if (message := message_for_user(error)) is None:
            raise
        sys.stderr.write(f"star-ctr: {message}\n")
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
