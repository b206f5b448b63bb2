"""The memory that lasts: what was said, in a database on the disk."""
