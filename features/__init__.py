"""Pure DataFrame -> DataFrame steps on Spark: no input or output, no session, no torch."""
