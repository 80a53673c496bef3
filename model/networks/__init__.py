"""The paper's model and those it is compared with: inputs and embeddings, normalization, networks, all put together."""
