"""Draft the YAML file of a new data set from its logs. Needs no Spark."""
