"""What all tools share: servers and processes, what they take, options, tables. Imports nothing of the others."""
