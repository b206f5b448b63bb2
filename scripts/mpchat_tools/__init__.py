"""What stress.py, chaos.py, benchmark.py and growth.py are made of. Beside them, and no part of the server."""
