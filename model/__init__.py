"""The PyTorch part of the project: the layers and models, the input pipeline, the trainer and the export. No Spark."""
