"""What grows with workers, members, rooms, clients and bytes, and how. The load is that of `bench`."""
