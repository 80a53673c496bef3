"""Feature rows to encoded rows: fitted vocabularies, scales and bucket bounds, and the row encoder."""
