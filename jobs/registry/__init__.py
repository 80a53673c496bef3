"""Published models and the decisions about them: attempts, serving model, gate policy, warm starts."""
