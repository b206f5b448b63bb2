"""The command `mpchat-client`: arguments in, an exit code out; problems are told on standard error.

Exit codes: 0 we left; 1 there was no connection, or it did not last until we left, or in a pipe something was refused
or lost; 2 usage.

Promises that what is typed at a terminal and not read does not reach the shell, whatever ends the client: a return, an
exception, or a signal that can be handled.
"""

import argparse
import asyncio
import importlib.util
import os
import sys
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from typing import Any, TextIO

from mpchat import __version__
from mpchat.client.errors import AddressError, ClientError, OutputClosed, ServerClosed
from mpchat.client.leftover import discard_leftovers
from mpchat.client.net.address import Address, add_port, parse_address
from mpchat.client.plain import Options, converse
from mpchat.client.terminal import LineInput, Output, new_loop
from mpchat.client.timing import Timing
from mpchat.client.typed import is_name
from mpchat.output import open_standard_descriptors, settle_standard_streams

EPILOG = """\
/quit, quit, Ctrl-D and Ctrl-C leave. In a pipe, all lines are said as they
stand, then what still comes is printed until the server closes; without
--name, the first line is the name. IPv6: [::1]:4000.

exit codes: 0 you left (Ctrl-C and a closed output count as leaving);
1 no connection, connection lost, closed by the server before you left, or
in a pipe: name taken or refused, any line refused or lost; 2 usage.
"""

ADVICE = (
    '* With the extra "client" (prompt_toolkit) there are line editing, history, completion with Tab and colours here, '
    "and a lost connection is tried again."
)


def build_parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="mpchat-client",
        description="Chat in line mode, at a terminal or in a pipe.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "address",
        metavar="HOST[:PORT]",
        nargs="?",
        type=read_address,
        default=Address(),
        help=f"where the server listens (default: {Address()})",
    )
    parser.add_argument("port", metavar="PORT", nargs="?", help="the port, as with nc: HOST PORT")
    parser.add_argument("--name", type=read_name, help="your name; asked for when not given")
    parser.add_argument(
        "--segments",
        action="store_true",
        help="send messages without line ends, even to a server that greets (default: only if none comes in 1 s)",
    )
    pipe = parser.add_argument_group("in a pipe")
    pipe.add_argument(
        "--any-name", action="store_true", help="accept another name if yours is taken (default: end with 1)"
    )
    pipe.add_argument(
        "--commands", action="store_true", help="lines that start with / and quit are commands (default: text like all)"
    )
    people = parser.add_argument_group("at a terminal")
    people.add_argument("--no-bell", action="store_true", help="do not ring when somebody speaks or writes to you")
    people.add_argument("--no-time", action="store_true", help="do not show the local time on the left")
    people.add_argument("--no-reconnect", action="store_true", help="end when the connection is lost")
    people.add_argument("--plain", action="store_true", help="no line editing, no colours: lines in, lines out")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    return parser


def read_address(text: str) -> Address:
    try:
        return parse_address(text)
    except AddressError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def read_name(text: str) -> str:
    """Only what cannot be sent as a name is refused here; what a name may hold is the server's to say."""
    if not is_name(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a name")
    return text


def main(argv: Sequence[str] | None = None, *, timing: Timing | None = None) -> int:
    """Run the client and return its exit code; argparse itself exits, with 2, when the usage is wrong."""
    open_standard_descriptors()
    try:
        return run(argv, timing or Timing())
    finally:
        settle_standard_streams()


def run(argv: Sequence[str] | None, timing: Timing) -> int:
    parser = build_parser()
    given = parser.parse_args(argv)
    options = read_options(parser, given, timing)
    descriptor = descriptor_of(sys.stdin)
    source, output = LineInput(descriptor), Output(descriptor_of(sys.stdout))
    try:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(choose_conversation(given, options, source, output))
    except (KeyboardInterrupt, OutputClosed):  # Ctrl-C before anybody listens for it; `| head -1`
        return 0
    except ClientError as error:
        complain(f"{'*' if isinstance(error, ServerClosed) else '!'} {error}\n")
        return 1
    finally:
        if discard_leftovers(descriptor) or (source.is_terminal and source.holds):
            complain("* What you typed after that was not sent.\n")
    return 0


def choose_conversation(
    given: argparse.Namespace, options: Options, source: LineInput, output: Output
) -> Coroutine[Any, Any, None]:
    """The client for people at a terminal that can move its cursor, if the extra is there; else the plain one."""
    term = os.environ.get("TERM", "")
    is_able = source.is_terminal and output.is_terminal and term.lower() not in ("", "dumb", "unknown")
    if given.plain or not is_able:
        return converse(options, source, output)
    if importlib.util.find_spec("prompt_toolkit") is None:
        return converse(replace(options, advice=ADVICE), source, output)
    # Here and not above: in a pipe nobody shall wait for its import, nor need it.
    from mpchat.client.screen.chat import Habits, converse_on_screen
    from mpchat.client.screen.editor import Look

    habits = Habits(not given.no_bell, not given.no_time, not given.no_reconnect)
    look = Look(term, has_color=not os.environ.get("NO_COLOR"))
    return converse_on_screen(options, habits, look, sys.stdin.fileno(), output)


def read_options(parser: argparse.ArgumentParser, given: argparse.Namespace, timing: Timing) -> Options:
    """The options in what was given. Exits with 2, as argparse does, when the usage is wrong."""
    address: Address = given.address
    if given.port is not None:
        try:
            address = add_port(address, given.port)
        except AddressError as error:
            parser.error(str(error))
    return Options(
        address,
        given.name,
        given.segments,
        any_name=given.any_name,
        commands=given.commands,
        timing=timing,
    )


def descriptor_of(stream: TextIO | None) -> int | None:
    """None for a stream that the shell closed (`<&-`): its number may by now be something else's."""
    return None if stream is None else stream.fileno()


def complain(text: str) -> None:
    # Not print(): what cannot be written would be tried again at exit, and turn the exit code into 120.
    descriptor = descriptor_of(sys.stderr)
    if descriptor is not None:
        try:
            os.write(descriptor, text.encode(errors="replace"))
        except OSError:
            return  # nobody reads it; the exit code still tells
