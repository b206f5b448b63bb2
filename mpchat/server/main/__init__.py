"""Main, the acceptor and supervisor: begins in `supervisor`."""
