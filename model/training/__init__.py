"""The trainer and its parts: optimizers, EMA, checkpoints, calibration, warm start, callbacks."""
