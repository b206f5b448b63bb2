"""The chat: requests, entries, events, history and the replica. Pure: no I/O, no clock, no randomness.

Every function here gives the same result in every process, however often it is called.
"""
