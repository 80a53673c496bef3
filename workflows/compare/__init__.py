"""Comparison of models: train them on the same nights, and report the paper's tables and figures."""
