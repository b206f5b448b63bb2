"""What the command lines of all tools share: types of options, and exit statuses.

Exit status: that of the run; 2 wrong usage, 3 the run was not possible, 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import signal
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import psutil

from mpchat.errors import in_words
from mpchat_tools.common.errors import ToolError

OWN_COMMAND = f"{shlex.quote(sys.executable)} -m mpchat"
"""Starts the server that this Python has."""


def positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise ValueError
    return number


def amount(text: str) -> float:
    if not 0 < (number := float(text)) < math.inf:
        raise ValueError
    return number


def names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def some_of(known: Iterable[str]) -> Callable[[str], list[str]]:
    """The type of an option that takes some of these names."""
    possible = list(known)

    def choose(text: str) -> list[str]:
        chosen = names(text)
        if unknown := [name for name in chosen if name not in possible]:
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: not one of {', '.join(possible)}")
        if not chosen:
            raise argparse.ArgumentTypeError(f"none given; there are {', '.join(possible)}")
        return chosen

    return choose


def named_command(text: str) -> tuple[str, list[str]]:
    """NAME=COMMAND."""
    name, _, command = text.partition("=")
    if not name or not command:
        raise ValueError
    return name, shlex.split(command)


def add_versions(parser: argparse.ArgumentParser) -> None:
    """How often to measure, and which versions of mpchat."""
    parser.add_argument("--rounds", type=positive, default=3)
    parser.add_argument("--command", default=OWN_COMMAND, help="command that starts mpchat")
    another, what = "NAME=COMMAND", "measure another version of mpchat, too"
    parser.add_argument("--also", type=named_command, action="append", default=[], metavar=another, help=what)


def add_json(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("--json", type=Path, metavar="FILE", help=f"write {what}")


def check_files(parser: argparse.ArgumentParser, *files: Path | None) -> None:
    """Reject a file in a directory that does not exist before the run, not after it."""
    for file in filter(None, files):
        if not file.absolute().parent.is_dir():
            parser.error(f"{file.parent} is no directory")


def write_json(file: Path | None, report: dict[str, Any]) -> None:
    if file:
        file.write_text(json.dumps(report, indent=1) + "\n")


def tell(file: Path | None, report: dict[str, Any], text: str, log: str) -> int:
    """Write the report of a check and print it, after faults with the end of the server's log; return the status."""
    write_json(file, report)
    print(text)
    if report["faults"] and log:
        print(f"the end of the server's log:\n{log}", file=sys.stderr)
    return 1 if report["faults"] else 0


def conclude(name: str, run: Callable[[], int]) -> int:
    """Run the tool `name`, and return its exit status."""
    try:
        return run()
    except (ToolError, OSError, psutil.Error) as error:
        print(f"{name}: {in_words(error)}", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        return 130


def launch(main: Callable[[], int]) -> None:
    """End this process with the status of `main`.

    TERM counts as Ctrl-C, because the servers that a tool starts have their own sessions and would keep running.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
