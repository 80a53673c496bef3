"""What a domain gains from the others, and what it does to them: models that are trained with and without its rows."""
