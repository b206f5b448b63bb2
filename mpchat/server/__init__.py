"""The processes: main, acceptor and supervisor, begins in `supervisor`; a worker begins in `worker`."""
