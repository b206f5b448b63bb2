"""Clients that come to this worker (`takeover`, `adoption`), and clients that leave it (`departure`)."""
