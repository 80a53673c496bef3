"""Input and output: the Spark session, log files, the tables of the warehouse, and small Delta tables without Spark."""
