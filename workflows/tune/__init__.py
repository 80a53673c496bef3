"""Search for better settings of model and trainer on nights before the newest one, without Spark."""
