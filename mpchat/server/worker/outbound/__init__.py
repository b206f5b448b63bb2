"""The way out: from the log to the clients."""
