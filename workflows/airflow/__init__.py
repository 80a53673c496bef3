"""The nightly DAG, and Airflow on one machine to look at it."""
