"""Append all that is said in a room to a file, one line each, with the time (UTC).

    python3 docs/examples/logger.py FILE [ROOM [HOST [PORT]]]
"""

import socket
import sys
from datetime import UTC, datetime


def main(path: str, room: str = "#lobby", host: str = "127.0.0.1", port: str = "4000") -> None:
    with (
        open(path, "a", encoding="utf-8", buffering=1) as log,
        socket.create_connection((host, int(port))) as server,
        server.makefile("r", encoding="utf-8") as lines,
    ):
        server.sendall(f"logger\n/join {room}\n".encode())
        for line in lines:
            if not line.startswith(("* ", "[")):  # notices and private messages are nobody else's business
                log.write(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} {line}")


if __name__ == "__main__":
    main(*sys.argv[1:])
