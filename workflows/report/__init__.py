"""HTML report of a night: the gate's decision, which model is served, metrics, and how the steps ran.

`data.collect` reads all tables without Spark, and `page.write` writes one HTML file that fetches nothing.
"""
