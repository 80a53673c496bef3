"""Registry of published models: attempts, decisions, serving model, gate policy, retention and warm starts."""
