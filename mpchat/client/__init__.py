"""The clients: a plain one for terminals and pipes, and the asynchronous core that every client stands on.

    cli -> plain -> terminal              argv; the conversation; this process's own input and output
             └----> connection -> dialogue -> incoming      the socket; the protocol; bytes to lines
                    └----> dialing                          from a host to a connected socket

`dialogue` and `incoming` are pure: bytes and the time in, events and bytes out. Standard library only.
"""
