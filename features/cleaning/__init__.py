"""Cleaning of raw log rows: keys, times, types, duplicates, and the reasons for quarantine."""
