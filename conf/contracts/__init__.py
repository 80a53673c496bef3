"""Formats and names that packages share: tables, encoded rows, column names, run ids and fingerprints."""
