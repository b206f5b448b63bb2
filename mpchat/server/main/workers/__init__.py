"""Workers as main sees them: which of them run, and which clients each one has. Starts in `workforce`."""
