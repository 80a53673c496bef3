"""From one version of the split to the trainer's batches: the plan, the reader, the window, the batches."""
