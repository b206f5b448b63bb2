"""A worker, and all that only a worker has: begins in `worker`."""
