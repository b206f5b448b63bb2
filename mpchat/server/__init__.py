"""The processes: `main` is the acceptor and supervisor, `worker` a worker; beside them is what both sides share."""
