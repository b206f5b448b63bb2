"""The asynchronous core that every client stands on: from an address to lines that come and lines that are said.

    connection -> dialogue -> incoming      the socket; the protocol; bytes to lines
        ├-------> dialing  -> address       from HOST:PORT to a connected socket
        └-------> acknowledgement           what has reached the other system

`address`, `dialogue` and `incoming` are pure: bytes and the time in, events and bytes out.
"""
