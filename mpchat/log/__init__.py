"""The pub/sub queue between the workers: one ordered, bounded, replayable log. See `port`."""
