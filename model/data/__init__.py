"""The input pipeline of the trainer: epoch plan, file reader, shuffle window, and batches."""
