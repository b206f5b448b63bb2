"""From a client's socket to the log. Starts in `connection`."""
