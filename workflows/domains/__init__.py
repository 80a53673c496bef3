"""What a domain gains from the others, and how it affects them, from models trained with and without its rows."""
