"""mpchat: a chat server for anything that can open a TCP connection."""

__version__ = "0.1.0"
