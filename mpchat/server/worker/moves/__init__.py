"""Clients that come from another worker, and clients that leave for one."""
