#!/usr/bin/env python3
"""Measures two things of a server of its own: the memory of an idle connection, and how long one broadcast takes.

    scripts/figures.py [--idle 2000] [--crowd 1000] [--rounds 30] [--workers 2]

Memory is PSS (proportional set size, which counts shared pages once) summed over all processes of the server, before
and after `--idle` clients have signed on; Linux only. A broadcast is timed from before one client's send to the moment
when the last of `--crowd` clients has the whole line, as one process sees it that also has to read all of them: so
it is an upper bound.
"""

from __future__ import annotations

import argparse
import resource
import selectors
import socket
import statistics
import sys
import time

import psutil
from stress_server import OwnServer, StressError

PATIENCE = 60.0


class Crowd:
    """Clients that have signed on, and read what comes."""

    def __init__(self, address: tuple[str, int], count: int) -> None:
        self.sockets = [socket.create_connection(address) for _ in range(count)]
        self._selector = selectors.DefaultSelector()
        for number, client in enumerate(self.sockets):
            client.sendall(f"crowd{number}\n".encode())
            client.setblocking(False)
            self._selector.register(client, selectors.EVENT_READ, bytearray())
        self.read_until(b"/help lists the commands.\n")

    def read_until(self, text: bytes, but: socket.socket | None = None) -> None:
        """Read until every client (`but` one) has got `text`, and drop what it has got up to then."""
        missing = len(self.sockets) - (but is not None)
        deadline = time.monotonic() + PATIENCE
        while missing:
            if time.monotonic() > deadline:
                raise StressError(f"{missing} clients did not get {text!r} in {PATIENCE:g} s")
            for key, _ in self._selector.select(1.0):
                assert isinstance(key.fileobj, socket.socket)
                chunk = key.fileobj.recv(1 << 16)
                if not chunk:
                    raise StressError("a client was disconnected")
                key.data.extend(chunk)
                if text in key.data:
                    key.data.clear()
                    missing -= 1

    def close(self) -> None:
        self._selector.close()
        for client in self.sockets:
            client.close()


def measure_memory(pid: int) -> int:
    """PSS in bytes of the process and all its children."""
    main = psutil.Process(pid)
    return sum(process.memory_full_info().pss for process in (main, *main.children(recursive=True)))


def measure_idle(server: OwnServer, address: tuple[str, int], count: int) -> str:
    before = measure_memory(server.pid)
    start = time.monotonic()
    crowd = Crowd(address, count)
    seconds = time.monotonic() - start
    after = measure_memory(server.pid)
    crowd.close()
    return (
        f"{count} clients signed on in {seconds:.2f} s ({count / seconds:,.0f}/s, one by one); "
        f"memory {before / 2**20:.1f} -> {after / 2**20:.1f} MiB PSS: "
        f"{(after - before) / count / 1024:.1f} KiB a connection"
    )


def measure_broadcast(address: tuple[str, int], count: int, rounds: int) -> str:
    crowd = Crowd(address, count)
    speaker = crowd.sockets[0]
    times = []
    for number in range(rounds + 1):
        text = b"broadcast %d, and so on to the usual length of a line in a chat." % number
        start = time.monotonic()
        speaker.send(text + b"\n")
        crowd.read_until(text + b"\n", but=speaker)
        times.append((time.monotonic() - start) * 1000)
    crowd.close()
    times = sorted(times[1:])  # the first warms up
    return (
        f"one broadcast to {count} clients, {rounds} rounds: median {statistics.median(times):.1f} ms, "
        f"{times[0]:.1f} to {times[-1]:.1f} ms"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--idle", type=int, default=2000)
    parser.add_argument("--crowd", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    command = [
        sys.executable,
        "-m",
        "mpchat",
        "--port",
        "0",
        "--workers",
        str(options.workers),
        "--log-level",
        "warning",
    ]
    server = OwnServer(command)
    try:
        address = server.address(time.monotonic() + PATIENCE)
        print(measure_idle(server, address, options.idle))
        print(measure_broadcast(address, options.crowd, options.rounds))
    except StressError as error:
        print(f"figures: {error}", file=sys.stderr)
        print(server.log_tail(), file=sys.stderr)
        return 1
    finally:
        server.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
