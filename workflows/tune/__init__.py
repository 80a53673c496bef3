"""Search of model and trainer settings on nights before the newest one, without Spark."""
