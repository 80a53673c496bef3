"""Evaluation metrics: AUC, GAUC (eq. 9), PCOC and log loss, with bootstrap intervals and significance tests."""
