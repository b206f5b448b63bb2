"""The main process. Starts in `launch`; `supervisor` runs the server, with `intake`, `workers` and `upgrade`."""
