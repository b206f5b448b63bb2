"""The state of a replica: people, rooms and their history, and its snapshot format."""
