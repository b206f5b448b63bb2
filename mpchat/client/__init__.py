"""The clients: for pipes and simple terminals, for people at a terminal, and the core that both stand on.

    cli -> plain ----> terminal           argv; lines in, lines out; this process's own input and output
     └---> screen -------┘                a kept input line, colours, completion; needs the extra `client`
    plain, screen -> net                  the connection to the server
    plain, screen -> typed                what a line of the input is

Standard library only, but for `screen.editor`. `leftover` keeps what was typed from the shell, `interrupts` has the
signals.
"""
