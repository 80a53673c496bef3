"""The model (STAR) and the models that it is compared with."""
