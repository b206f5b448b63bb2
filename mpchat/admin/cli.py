"""The command `mpchat-admin`: arguments in, an exit code out; problems are told on standard error.

Exit codes: 0 done; 1 something is wrong with the data, or the wish was not granted; 2 usage; 5 the data directory
cannot be used.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TypeAlias

from mpchat import __version__
from mpchat.admin.export import FORMATS
from mpchat.admin.moments import read_moment, write_moment
from mpchat.archive.database import Database, Wish, open_database
from mpchat.archive.errors import ArchiveRefused
from mpchat.archive.folder import lock_folder, read_owner
from mpchat.chat.problems import Refusal
from mpchat.chat.state.names import clean_name, clean_room, name_key
from mpchat.errors import ArchiveError
from mpchat.output import open_standard_descriptors, settle_standard_streams

GRANT_SECONDS = 30.0
"""How long a running server may take to forget."""

LOOK_AGAIN = 0.1

EPILOG = """\
exit codes: 0 done; 1 something is wrong with the data, or a running server
did not do what was asked in time; 2 usage; 5 the data directory cannot be used.
"""


def build_parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="mpchat-admin",
        description="Look after the data directory of an mpchat server.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _add_export(commands)
    _add_backup(commands)
    _add_check(commands)
    _add_forget(commands)
    return parser


Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def _add_command(
    commands: Commands, name: str, run: Callable[[argparse.Namespace], int], what: str
) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=what, description=f"{what[0].upper()}{what[1:]}.")
    command.add_argument("--data", type=Path, required=True, metavar="DIR", help="the data directory of the server")
    command.set_defaults(run=run)
    return command


def _add_export(commands: Commands) -> None:
    command = _add_command(commands, "export", export, "write what was said to standard output")
    command.add_argument("--room", type=_read_room, help="of this room only")
    command.add_argument(
        "--since",
        type=_read_moment,
        default=0,
        metavar="TIME",
        help="from then on: 2026-11-25, or 2026-11-25T18:00 (UTC)",
    )
    command.add_argument("--until", type=_read_moment, default=1 << 62, metavar="TIME", help="before then")
    command.add_argument("--format", choices=sorted(FORMATS), default="text", help="default: %(default)s")


def _add_backup(commands: Commands) -> None:
    command = _add_command(commands, "backup", back_up, "copy the database to FILE, while the server runs")
    command.add_argument("file", type=Path, metavar="FILE", help="a file that does not exist yet")


def _add_check(commands: Commands) -> None:
    _add_command(commands, "check", check, "check the database, and say what is in it")


def _add_forget(commands: Commands) -> None:
    command = _add_command(
        commands, "forget", forget, "delete all that somebody has said, or all that was said in a room"
    )
    which = command.add_mutually_exclusive_group(required=True)
    which.add_argument("--name", type=_read_name, help="whose lines to delete")
    which.add_argument("--room", type=_read_room, help="which room to delete")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; argparse itself exits, with 2, when the usage is wrong."""
    open_standard_descriptors()
    try:
        options = build_parser().parse_args(argv)
        return int(options.run(options))
    except ArchiveError as error:
        print(f"mpchat-admin: {error}", file=sys.stderr)
        return 5
    except BrokenPipeError:  # `| head -1`
        return 0
    except KeyboardInterrupt:
        return 130
    finally:
        settle_standard_streams()


# --- the commands


def export(options: argparse.Namespace) -> int:
    write = FORMATS[options.format]
    with _reading(options.data) as database:
        for line in database.read_lines(options.room, options.since, options.until):
            print(write(line))
    return 0


def back_up(options: argparse.Namespace) -> int:
    if options.file.exists():
        raise ArchiveRefused(f"{options.file} exists; nothing is overwritten")
    progress = _Progress(sys.stderr.isatty())
    with _reading(options.data) as database:
        database.back_up(options.file, progress.show)
    progress.end()
    return 0


def check(options: argparse.Namespace) -> int:
    with _reading(options.data) as database:
        faults, counts, place, gaps = database.check(), database.count(), database.place, database.list_gaps()
    print(f"lines     {counts.lines:,}\nrooms     {counts.rooms:,}\nsize      {counts.size:,} bytes")
    print(f"up to     {write_moment(place.time) if place.time else 'nothing yet'}")
    owner = read_owner(options.data)
    print(f"in use by {f'process {owner}' if owner else 'nobody'}")
    for gap in gaps:
        print(f"gap       {write_moment(gap.since)} to {write_moment(gap.until)}: {gap.reason}")
    for fault in faults:
        print(f"damaged   {fault}")
    return 1 if faults else 0


def forget(options: argparse.Namespace) -> int:
    wish = Wish("name", options.name) if options.name is not None else Wish("room", options.room)
    if not (options.data / "chat.db").is_file():
        raise ArchiveRefused(f"there is no database in {options.data}")
    if read_owner(options.data) is not None:
        return _ask_server(options.data, wish)
    folder = lock_folder(options.data)
    try:
        with closing(open_database(options.data)) as database:
            # The journal may have lines that are in no database yet. The next server forgets them.
            database.wish(wish)
            deleted = 0
            while some := database.forget(wish):
                deleted += some
    finally:
        folder.close()
    print(f"{deleted} lines deleted")
    return 0


def _ask_server(data: Path, wish: Wish) -> int:
    """Leave the wish to the running server, and wait until it is granted."""
    with closing(open_database(data)) as database:
        database.wish(wish)
        until = time.monotonic() + GRANT_SECONDS
        while wish in database.list_wishes():
            if time.monotonic() > until:
                print("mpchat-admin: the server has not done it yet; it will", file=sys.stderr)
                return 1
            time.sleep(LOOK_AGAIN)
    print("deleted")
    return 0


# --- arguments and output


@contextmanager
def _reading(data: Path) -> Iterator[Database]:
    with closing(open_database(data, read_only=True)) as database:
        yield database


def _read_moment(text: str) -> int:
    try:
        return read_moment(text)
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(f"{text!r} is no time; write 2026-11-25 or 2026-11-25T18:00 (UTC)") from None


def _read_name(text: str) -> str:
    try:
        return name_key(clean_name(text))
    except Refusal:
        raise argparse.ArgumentTypeError(f"{text!r} is no name") from None


def _read_room(text: str) -> str:
    try:
        return name_key(clean_room(text.removeprefix("#")))
    except Refusal:
        raise argparse.ArgumentTypeError(f"{text!r} is no room") from None


class _Progress:
    """A bar on the terminal, or nothing where there is none."""

    WIDTH = 40

    def __init__(self, shown: bool) -> None:
        self._shown = shown

    def show(self, left: int, pages: int) -> None:
        if self._shown and pages:
            done = self.WIDTH * (pages - left) // pages
            sys.stderr.write(f"\r[{'#' * done}{' ' * (self.WIDTH - done)}] {100 * (pages - left) // pages} %")
            sys.stderr.flush()

    def end(self) -> None:
        if self._shown:
            sys.stderr.write("\n")


if __name__ == "__main__":
    sys.exit(main())
