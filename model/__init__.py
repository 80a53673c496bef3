"""PyTorch: the paper's layers and model, the stream of batches, the trainer, export. No Spark."""
