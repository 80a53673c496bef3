"""Spark functions that simulate logs, clean them, compute and encode features, and evaluate scores.

The modules read and write no tables, create no Spark session and do not import torch.
"""
