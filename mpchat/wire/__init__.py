"""Dialects: how a client's bytes become requests, and how events become bytes. Pure: no I/O, no clock, no chance.

`dialect` and `framing` are the port that the server uses. Each package here implements it once; `registry` alone knows
which there are. `text` has the one rule about characters that all of them keep.
"""
