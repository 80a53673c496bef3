"""Data quality: checks that stop a night, and the data profile of each day."""
