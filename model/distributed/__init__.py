"""Process groups, gradients across processes, threads, and the lifetime of child processes."""
