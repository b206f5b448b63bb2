"""The archive process: one more reader of the log, which keeps what was said in the database."""
