"""The clients: a plain one for terminals and pipes, and the asynchronous core that every client stands on.

    cli -> plain -> terminal              argv; the conversation; this process's own input and output
             └----> net                   the connection to the server

Standard library only.
"""
