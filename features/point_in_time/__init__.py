"""Point-in-time features: sequences, statistics and attributes as of the time of each row."""
