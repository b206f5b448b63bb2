"""Front-ends: framings (bytes to messages), dialects (messages to entries, events to text). Pure: no I/O, no clock."""
