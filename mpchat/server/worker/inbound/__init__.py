"""The way in: from a client's socket to the log."""
