"""Encoding of feature rows: fitted vocabularies, scales and bucket bounds, and the row encoder."""
