"""Spark jobs. Each step of a night is a module: it reads tables, calls `features` or `model`, and writes tables.

Every step runs under spark-submit, for example `spark-submit jobs/ingest.py --conf conf/kuairand.yaml`.
"""
