"""From the log to the clients. Starts in `reader`."""
