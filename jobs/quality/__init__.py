"""Data quality: checks that stop a night, and the profile of each day."""
