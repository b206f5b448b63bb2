"""Intake: from connections that wait in the kernel to clients that are admitted. Starts in `acceptor`."""
