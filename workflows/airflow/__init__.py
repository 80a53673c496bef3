"""The nightly DAG for Airflow, and a local Airflow to run it on one machine."""
