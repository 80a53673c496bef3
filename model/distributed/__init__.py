"""Process groups, gradients across processes, shared memory, threads, and the lifetime of child processes."""
