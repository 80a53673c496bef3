"""Settings of the catalog: where Spark finds the tables of the warehouse by name."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from star_ctr.conf.settings.base import SettingsModel

_Identifier = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class CatalogSettings(SettingsModel):
    """The catalog in which the tables are registered after each step, as external Delta tables.

    SQL queries then find them by name, for example `SELECT * FROM ads.metrics`. The database is created if it does not
    exist. Each data set needs a database of its own, because its tables have fixed names.
    """

    name: _Identifier = Field("spark_catalog", description="name of the catalog in Spark")
    database: _Identifier = Field(description="database (also called schema) of the tables")

    @property
    def path(self) -> str:
        """Name of the database with its catalog, quoted for SQL."""
        return f"`{self.name}`.`{self.database}`"
