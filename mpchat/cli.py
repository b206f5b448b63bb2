"""`mpchat-server`: from the command line and the configuration file to a running server and an exit code.

The one place that reads arguments and files. A value on the command line wins over the same in the file.
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

log = logging.getLogger(__name__)

EXIT_CODES = """\
exit codes: 0 fine, 1 failed while running, 2 usage, 3 does not come up, 4 cannot listen,
78 bad configuration"""


def build_parser() -> argparse.ArgumentParser:
    """The options of `mpchat-server`. Their names are those of Config; what is not given is not set."""
    defaults = Config()
    parser = argparse.ArgumentParser(
        prog="mpchat-server",
        description="A chat server for anything that can open a TCP connection.",
        epilog=EXIT_CODES,
        argument_default=argparse.SUPPRESS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"mpchat {__version__}")
    parser.add_argument("--config", metavar="FILE", help="a TOML file with these options, _ for - in their names")

    def add(name: str, convert: Callable[[str], Any], metavar: str, text: str) -> None:
        default = getattr(defaults, name.replace("-", "_"))
        parser.add_argument(f"--{name}", type=convert, metavar=metavar, help=f"{text} ({default})")

    add("host", str, "ADDRESS", "the address to listen on")
    add("port", int, "PORT", "the port; 0 takes a free one")
    parser.add_argument(
        "--workers", type=_workers, metavar="N|auto", help="worker processes (auto: by CPU affinity and quota)"
    )
    add("max-clients", int, "N", "clients at the same time")
    add("max-per-address", int, "N", "connections from one address at the same time; 0: any number")
    parser.add_argument(
        "--exempt", action="append", metavar="NETWORK", help="networks that --max-per-address does not count (loopback)"
    )
    add("rate", float, "LINES_PER_S", "what one client may send in the long run; 0: as much as it likes")
    add("burst", int, "LINES", "what one client may send at once")
    add("history", int, "N", "lines kept of every room")
    parser.add_argument(
        "--segment-timeout",
        type=_milliseconds,
        metavar="MS",
        help="wait for the first line end before taking each segment for a message; 0: never do (200)",
    )
    add("sign-on-timeout", float, "S", "seconds to answer the question for the name")
    add("sendq", int, "BYTES", "what may wait to be sent to one client")
    add("max-line", int, "BYTES", "the longest line")
    add("beat-timeout", float, "S", "seconds of silence after which a worker counts as hung")
    add("drain-timeout", float, "S", "seconds that stopping may take")
    parser.add_argument("--log-level", choices=LOG_LEVELS, help=f"what is logged ({defaults.log_level})")
    parser.add_argument("--log-file", metavar="PATH", help="log to this file, opened anew at HUP (standard error)")
    # What one version of the program says to the next; see server.upgrade.
    parser.add_argument("--trial", metavar="FORMAT", help=argparse.SUPPRESS)
    parser.add_argument("--inherit", type=int, metavar="DESCRIPTOR", help=argparse.SUPPRESS)
    return parser


def read_config(arguments: Sequence[str] | None = None) -> Config:
    """The configuration that the command line asks for. Raises ConfigError; exits with 2 for a wrong usage."""
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
    """Run the server until it is told to stop; give the exit code. Exits with 2 for a wrong usage."""
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
        # Not left to the interpreter, whose exit code is 120 when it cannot print this.
        log.exception("a fault of ours ends the server")
        return 1
    return 0


def _serve(config: Config, arguments: Sequence[str], given: argparse.Namespace) -> None:
    # Only now: what a mere --help does not need.
    with blame_system(BootError, "load the program"):
        from mpchat.server.main.program import current_program, locate
        from mpchat.server.main.supervisor import Launch, run_server
        from mpchat.server.main.upgrade import read_handover

    inherited = read_handover(given.inherit) if "inherit" in given else None
    program = current_program(os.environ)
    if "config" in given and not Path(given.config).is_absolute():
        # Where it is whatever becomes of the working directory. Of two, the last one counts.
        anywhere = ("--config", str(locate(program.folder, given.config)))
        arguments = [*arguments, *anywhere]
        program = program._replace(command=[*program.command, *anywhere])
    run_server(config, Launch(_announce, lambda: read_config(arguments), program), inherited)


def _try(config: Config, wanted: str) -> None:
    """Come up beside the running server, as a sign that this version can take its place, and say so. Raises MpchatError
    if not."""
    with blame_system(BootError, "load the program"):
        from mpchat.server.main.supervisor import Launch, run_server
        from mpchat.server.main.upgrade import FORMAT, TRIAL_PASSED

    check_log_file(config.log_file)
    if wanted != FORMAT:
        raise ServeError(f"the running program leaves a handover of format {wanted}; {__version__} reads {FORMAT}")
    # What it has to say is for the server that tries it.
    config = replace(config, host="127.0.0.1", port=0, workers=1, log_file="")
    came_up: list[str] = []
    run_server(config, Launch(came_up.append, lambda: config, trial=True))
    if not came_up:
        raise ServeError("told to stop before it had come up")
    _announce(f"{TRIAL_PASSED}{__version__}")


def _announce(line: str) -> None:
    """Say on standard output that the server is ready: the one line there ever is. Nobody has to listen."""
    _tell(1, line)


def _fail(code: int, error: MpchatError) -> int:
    _tell(2, f"mpchat-server: {error}")
    if log_descriptors():
        # Nobody may see standard error when there is a log file.
        log.error("the server ends: %s", error)
    return code


def _tell(descriptor: int, line: str) -> None:
    """Write a line if somebody takes it."""
    with suppress(OSError):
        Outlet(descriptor).write(f"{line}\n".encode(errors="backslashreplace"))


def _auto_workers() -> int:
    """One worker for each processor that this process may use, as far as a server can have them."""
    return min(count_processors(), WORKERS_MOST)


def _workers(text: str) -> int:
    try:
        return _auto_workers() if text == "auto" else int(text)
    except ValueError:
        # argparse would put the name of this function into its own words.
        raise argparse.ArgumentTypeError(f"neither a number nor auto: {text!r}") from None


def _milliseconds(text: str) -> float:
    try:
        return float(text) / 1000
    except ValueError:
        raise argparse.ArgumentTypeError(f"not a number of milliseconds: {text!r}") from None


def _read_file(path: Path) -> dict[str, Any]:
    """The values of a configuration file, by the names of Config. Raises ConfigError."""
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


def _check_value(path: Path, name: str, value: object) -> None:
    """Raise ConfigError unless there is an option `name` and `value` is of its kind."""
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
        raise ConfigError(f"{path}: {name} = {value!r} is not of the kind of {default[name]!r}")


if __name__ == "__main__":
    sys.exit(main())
