"""Settings of the folders of logs, tables and models."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from star_ctr.conf.settings.base import SettingsModel

_UNSUPPORTED_IN_FOLDERS = re.compile(r"[\[\]^|\\\n]|%[0-9A-Fa-f]{2}")
"""Characters in folders that deltalake misreads."""


def _check_folder(value: str) -> str:
    """Check that a folder on a local file system, as an absolute path without links, has only supported characters."""
    path = value if "://" in value else str(Path(value).resolve())
    if match := _UNSUPPORTED_IN_FOLDERS.search(path):
        raise ValueError(
            f"Delta tables cannot be in a folder with `{match[0]}` in its path ({path}); choose another one"
        )
    return value


class PathSettings(SettingsModel):
    """Folders, or URLs that Spark supports. Relative folders are relative to the working directory."""

    logs: str = Field(description="folder of the logs")
    warehouse: Annotated[str, AfterValidator(_check_folder)] = Field(description="folder of the tables")
    models: str | None = Field(
        None,
        description="folder of the trained runs, which all machines can access; default: `models` in `warehouse`",
    )
