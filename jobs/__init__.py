"""One spark-submit-able step a file: reads tables, calls `features` or `model`, writes tables."""
