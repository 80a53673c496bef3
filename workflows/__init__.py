"""Workflows: nightly runs, backfills, model comparisons, reports, the command line and the Airflow DAG."""
