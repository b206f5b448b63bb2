"""What a replica remembers: people, rooms and their history, and how a snapshot carries it."""
