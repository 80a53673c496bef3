"""Python API for notebooks and scripts. `star_ctr.open("mine.yaml")` returns a `Project`.

Tables, runs, metrics and reports are read without Spark. Spark starts only to run a step, to
score raw impressions, or to return a Spark DataFrame.
"""

from star_ctr.workflows.api.model import Model
from star_ctr.workflows.api.project import Project, open_project
from star_ctr.workflows.api.report import Report
from star_ctr.workflows.api.runs import Run, Runs
from star_ctr.workflows.api.tables import Table, Tables

__all__ = ["Model", "Project", "Report", "Run", "Runs", "Table", "Tables", "open_project"]
