#!/usr/bin/env python3
"""A baseline of the benchmark: the plain broadcast server on asyncio's streams, in one process.

The first line of a client is its name and its room; every other line goes to all others in the room as `name: line`,
one `write` each. Promises no more than that: what a slow client does not take is kept, without a bound.
"""

from __future__ import annotations

import argparse
import asyncio
from collections import defaultdict

rooms: defaultdict[bytes, set[asyncio.StreamWriter]] = defaultdict(set)


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    name, _, room = (await reader.readline()).strip().partition(b" ")
    rooms[room].add(writer)
    writer.write(b"ok\n")
    try:
        while line := await reader.readline():
            for receiver in rooms[room]:
                if receiver is not writer:
                    receiver.write(name + b": " + line)
            await writer.drain()
    except ConnectionError:
        pass  # it has gone
    finally:
        rooms[room].discard(writer)
        writer.close()


async def listen(port: int) -> None:
    server = await asyncio.start_server(serve, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=4000)
    asyncio.run(listen(parser.parse_args().port))


if __name__ == "__main__":
    main()
