"""The data directory as main uses it: what a server begins with, and the archive process that writes to it."""
