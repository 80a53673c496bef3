"""The paper's layers: partitioned normalization (§3.3), star topology FCN (§3.4), auxiliary network (§3.5)."""
