"""Raw log rows to clean rows: keys, times, types, duplicates, quarantine."""
