"""A bot that answers whoever speaks to it: `echo: hello` gets `alice: hello`.

    python3 docs/examples/echo_bot.py [HOST [PORT]]
"""

import socket
import sys

NAME = "echo"


def main(host: str = "127.0.0.1", port: str = "4000") -> None:
    with socket.create_connection((host, int(port))) as server, server.makefile("r", encoding="utf-8") as lines:
        server.sendall(f"{NAME}\n".encode())
        for line in lines:
            # Notices begin with "* ", actions with "** ", private messages with "[": what is left is `name: text`.
            speaker, colon, text = line.rstrip("\n").partition(": ")
            if not colon or line.startswith(("*", "[")):
                continue
            if text.startswith(f"{NAME}: "):
                answer = text.removeprefix(f"{NAME}: ")
                server.sendall(f"{speaker}: {answer}\n".encode())


if __name__ == "__main__":
    main(*sys.argv[1:])
