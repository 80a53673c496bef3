"""Read logs and read and write tables: the Spark session, the warehouse, and small Delta tables without Spark."""
