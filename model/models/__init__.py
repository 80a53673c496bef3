"""The STAR model (§3) and the models that it is compared with."""
