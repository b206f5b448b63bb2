"""The command `mpchat-client`: arguments in, an exit code out; problems are told on standard error.

Exit codes: 0 we left; 1 there was no connection, or it did not last until we left, or in a pipe something was refused
or lost; 2 usage.

Promises that what is typed at a terminal and not read does not reach the shell, whatever ends the client: a return, an
exception, or a signal that can be handled.
"""

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from typing import TextIO

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
    options = read_options(build_parser(), argv, timing)
    descriptor = descriptor_of(sys.stdin)
    source = LineInput(descriptor)
    try:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(converse(options, source, Output(descriptor_of(sys.stdout))))
    except (KeyboardInterrupt, OutputClosed):  # Ctrl-C before anybody listens for it; `| head -1`
        return 0
    except ClientError as error:
        complain(f"{'*' if isinstance(error, ServerClosed) else '!'} {error}\n")
        return 1
    finally:
        if discard_leftovers(descriptor) or (source.is_terminal and source.holds):
            complain("* What you typed after that was not sent.\n")
    return 0


def read_options(parser: argparse.ArgumentParser, argv: Sequence[str] | None, timing: Timing) -> Options:
    """The options in `argv`. Exits with 2, as argparse does, when the usage is wrong."""
    given = parser.parse_args(argv)
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
