"""The trainer and its parts: optimizers, EMA of weights, checkpoints, calibration, warm start, and callbacks."""
