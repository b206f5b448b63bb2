"""`mpchat-server`: from the command line and the configuration file to a running server and an exit code.

Owns the options and the exit codes. The only module that reads arguments, the environment and the configuration file.
An option on the command line overrides the one in the file.
"""

import argparse
import logging
import os
import sys
import tomllib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from mpchat import __version__
from mpchat.config import LOG_LEVELS, WORKERS_MOST, Config
from mpchat.errors import BootError, ConfigError, ListenError, MpchatError, ServeError, blame_system
from mpchat.logs import check_log_file, log_descriptors
from mpchat.output import Outlet, open_standard_descriptors, settle_standard_streams, unblock_standard_output
from mpchat.processors import count_processors
from mpchat.title import set_title

log = logging.getLogger(__name__)

EXIT_CODES = """\
exit codes: 0 stopped on request, 1 failed while running, 2 wrong usage, 3 failed to start,
4 cannot listen on the address, 78 bad configuration"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of `mpchat-server`. Options have the names of Config, and are not set unless they are given."""
    defaults = Config()
    parser = argparse.ArgumentParser(
        prog="mpchat-server",
        description="A chat server for anything that can open a TCP connection.",
        epilog=EXIT_CODES,
        argument_default=argparse.SUPPRESS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"mpchat {__version__}")
    parser.add_argument("--config", metavar="FILE", help="a TOML file with these options, with _ for - in their names")

    def add(name: str, convert: Callable[[str], Any], metavar: str, text: str) -> None:
        default = getattr(defaults, name.replace("-", "_"))
        parser.add_argument(f"--{name}", type=convert, metavar=metavar, help=f"{text} ({default})")

    add("host", str, "ADDRESS", "address to listen on")
    add("port", int, "PORT", "port to listen on; 0: any free one")
    parser.add_argument(
        "--workers",
        type=_workers,
        metavar="N|auto",
        help="worker processes; auto: as many as the CPU affinity and quota allow (auto)",
    )
    add("max-clients", int, "N", "most clients at a time")
    add("max-per-address", int, "N", "most clients from one address at a time; 0: no limit")
    parser.add_argument(
        "--exempt",
        action="append",
        metavar="NETWORK",
        help="network that --max-per-address does not limit; may be repeated, '' for none (loopback)",
    )
    add("rate", float, "LINES_PER_S", "lines per second that one client may send on average; 0: no limit")
    add("burst", int, "LINES", "lines that one client may send at once")
    add("history", int, "N", "lines to keep of every room")
    parser.add_argument(
        "--segment-timeout",
        type=_milliseconds,
        metavar="MS",
        help="milliseconds to wait for the first line end before each segment counts as a message; 0: off (200)",
    )
    add("sign-on-timeout", float, "S", "seconds that a client has to give a name")
    add("sendq", int, "BYTES", "bytes that may wait to be sent to one client before it is disconnected")
    add("max-line", int, "BYTES", "longest line in bytes")
    add("beat-timeout", float, "S", "seconds of silence after which a worker counts as hung and is replaced")
    add("drain-timeout", float, "S", "seconds that stopping may take before clients are disconnected")
    parser.add_argument("--log-level", choices=LOG_LEVELS, help=f"log this level and above ({defaults.log_level})")
    parser.add_argument("--log-file", metavar="PATH", help="log to this file, reopened at HUP (standard error)")
    # One program starts the next with these; see server.main.upgrade.
    parser.add_argument("--trial", metavar="FORMAT", help=argparse.SUPPRESS)
    parser.add_argument("--inherit", type=int, metavar="DESCRIPTOR", help=argparse.SUPPRESS)
    return parser


def read_config(arguments: Sequence[str] | None = None) -> Config:
    """Return the configuration that the command line asks for. Raises ConfigError; exits with 2 for wrong usage."""
    given = vars(build_parser().parse_args(arguments))
    for name in ("trial", "inherit"):
        given.pop(name, None)
    path = given.pop("config", None)
    values: dict[str, Any] = {"workers": _auto_workers()}
    if path is not None:
        values |= _read_file(Path(path))
    values |= given
    if "exempt" in values:
        values["exempt"] = tuple(network for network in values["exempt"] if network)
    return Config(**values)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the server until it is told to stop, and return the exit code. Exits with 2 for wrong usage."""
    open_standard_descriptors()
    try:
        return _run(arguments)
    finally:
        settle_standard_streams()


def _run(arguments: Sequence[str] | None) -> int:
    given = build_parser().parse_args(arguments)
    try:
        config = read_config(arguments)
        unblock_standard_output()
        if "trial" in given:
            _try(config, given.trial)
        else:
            _serve(config, sys.argv[1:] if arguments is None else arguments, given)
    except ConfigError as error:
        return _fail(78, error)
    except ListenError as error:
        return _fail(4, error)
    except BootError as error:
        return _fail(3, error)
    except MpchatError as error:
        return _fail(1, error)
    except Exception:
        # The interpreter would exit with 120 if it could not print this.
        log.exception("server ends after an internal error")
        return 1
    return 0


def _serve(config: Config, arguments: Sequence[str], given: argparse.Namespace) -> None:
    # Imported here, since --help does not need them.
    with blame_system(BootError, "load the program"):
        from mpchat.server.main.launch import run_server
        from mpchat.server.main.supervisor import Launch
        from mpchat.server.main.upgrade.handover import read_handover
        from mpchat.server.main.upgrade.program import current_program, locate

    set_title("main")
    inherited = read_handover(given.inherit) if "inherit" in given else None
    program = current_program(os.environ)
    if "config" in given and not Path(given.config).is_absolute():
        # As an absolute path, since the working directory may be removed. Of two --config, the last one counts.
        anywhere = ("--config", str(locate(program.folder, given.config)))
        arguments = [*arguments, *anywhere]
        program = program._replace(command=[*program.command, *anywhere])
    run_server(config, Launch(_announce, lambda: read_config(arguments), program), inherited)


def _try(config: Config, wanted: str) -> None:
    """Be the trial of an upgrade: start beside the running server, stop, and say that it worked. Raises MpchatError."""
    with blame_system(BootError, "load the program"):
        from mpchat.server.main.launch import run_server
        from mpchat.server.main.supervisor import Launch
        from mpchat.server.main.upgrade.handover import FORMAT
        from mpchat.server.main.upgrade.trial import TRIAL_PASSED

    set_title("trial")
    check_log_file(config.log_file)
    if wanted != FORMAT:
        raise ServeError(f"the running program leaves a handover of format {wanted}; {__version__} reads {FORMAT}")
    # Its log lines go to standard error, which the running server reads.
    config = replace(config, host="127.0.0.1", port=0, workers=1, log_file="")
    came_up: list[str] = []
    run_server(config, Launch(came_up.append, lambda: config, trial=True))
    if not came_up:
        raise ServeError("told to stop before it was ready")
    _announce(f"{TRIAL_PASSED}{__version__}")


def _announce(line: str) -> None:
    """Write the one line of standard output, if something reads it."""
    _tell(1, line)


def _fail(code: int, error: MpchatError) -> int:
    _tell(2, f"mpchat-server: {error}")
    if log_descriptors():
        # With a log file, standard error may go nowhere.
        log.error("server ends code=%d reason=%s", code, error)
    return code


def _tell(descriptor: int, line: str) -> None:
    """Write a line, if there is room for it."""
    with suppress(OSError):
        Outlet(descriptor).write(f"{line}\n".encode(errors="backslashreplace"))


def _auto_workers() -> int:
    """Return the number of processors that this process may use, but at most WORKERS_MOST."""
    return min(count_processors(), WORKERS_MOST)


def _workers(text: str) -> int:
    try:
        return _auto_workers() if text == "auto" else int(text)
    except ValueError:
        # For a ValueError, argparse would show the name of this function.
        raise argparse.ArgumentTypeError(f"neither a number nor auto: {text!r}") from None


def _milliseconds(text: str) -> float:
    try:
        return float(text) / 1000
    except ValueError:
        raise argparse.ArgumentTypeError(f"not a number of milliseconds: {text!r}") from None


def _read_file(path: Path) -> dict[str, Any]:
    """Return the values of a configuration file, by the names of Config. Raises ConfigError."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # no file, no UTF-8, no TOML, a number of 5,000 digits
        raise ConfigError(f"{path}: {error}") from error
    if values.get("workers") == "auto":
        values["workers"] = _auto_workers()
    for name, value in values.items():
        _check_value(path, name, value)
    if "segment_timeout" in values:
        values["segment_timeout"] /= 1000
    return values


_KINDS = {tuple: "a list of strings", float: "a number", int: "an integer", str: "a string"}


def _check_value(path: Path, name: str, value: object) -> None:
    """Raise ConfigError unless there is an option `name` and `value` has its type."""
    default = {item.name: item.default for item in fields(Config)}
    if name not in default:
        raise ConfigError(f"{path}: there is no option {name}")
    if isinstance(default[name], tuple):
        right = isinstance(value, list) and all(isinstance(item, str) for item in value)
    elif isinstance(default[name], float):
        right = isinstance(value, int | float) and not isinstance(value, bool)
    else:
        right = type(value) is type(default[name])
    if not right:
        raise ConfigError(f"{path}: {name} = {value!r}: must be {_KINDS[type(default[name])]}")


if __name__ == "__main__":
    sys.exit(main())
