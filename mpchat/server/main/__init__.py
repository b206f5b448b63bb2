"""The main process: the supervisor, the way in (`intake`), and the workers (`workers`). Starts in `supervisor`."""
