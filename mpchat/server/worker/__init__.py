"""The worker process. Starts in `worker`."""
