"""Layers of the paper: partitioned normalization (§3.3), star topology FCN (§3.4) and auxiliary network (§3.5).

Also contains the layers of the models that STAR is compared with, and the attention pooling of sequences.
"""
