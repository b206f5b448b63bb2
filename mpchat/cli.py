"""`mpchat-server`: from the command line, the environment and the file to a running server and an exit code.

Owns the command line and the exit codes. The only module that reads arguments, the environment and the configuration
file. `options` says which options there are, and which source counts.
"""

import argparse
import logging
import os
import sys
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from mpchat import __version__
from mpchat.config import WORKERS_MOST, Config
from mpchat.errors import (
    ArchiveError,
    BootError,
    ConfigError,
    ListenError,
    MpchatError,
    ServeError,
    UsageError,
    blame_system,
    in_words,
)
from mpchat.logs import check_log_file, log_descriptors
from mpchat.options import (
    CONFIG_VARIABLE,
    ENVIRONMENT,
    OPTIONS,
    Setting,
    describe,
    list_defaults,
    list_unknown,
    make_config,
    read_arguments,
    read_environment,
    read_file,
    suggest,
)
from mpchat.output import Outlet, open_standard_descriptors, settle_standard_streams, unblock_standard_output
from mpchat.processors import count_processors
from mpchat.title import set_title

log = logging.getLogger(__name__)

SIGNALS = """\
signals (to the main process):
  TERM  deliver what clients have sent, tell everybody, and stop
  INT   tell everybody, and stop within a second; a second one: at once
  HUP   read the file again and replace the workers one by one; the log file is reopened
  USR1  log what each process uses
  USR2  replace the program by the version that is installed now
  TTIN, TTOU  one worker more, one less"""

EXIT_CODES = """\
exit codes: 0 stopped on request, 1 failed while running, 2 wrong usage, 3 failed to start,
4 cannot listen on the address, 5 cannot use the data directory, 78 bad configuration"""

SOURCES = f"""\
Each option may also be in the file (--config), with _ for - in its name, or in the environment, as
{ENVIRONMENT}MAX_CLIENTS for --max-clients (lists with commas). The command line counts before the environment,
and that before the file. --print-config shows what is in force."""


class _Parser(argparse.ArgumentParser):
    """A parser that complains in one line: the usage of this many options would hide it."""

    def error(self, message: str) -> NoReturn:
        words = message.split()
        if words[:2] == ["unrecognized", "arguments:"]:
            message += suggest(words[2].partition("=")[0], self._option_string_actions)
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of `mpchat-server`. Options have the names of Config, and are not set unless they are given."""
    parser = _Parser(
        prog="mpchat-server",
        description="A chat server for anything that can open a TCP connection.",
        epilog=f"{SOURCES}\n\n{SIGNALS}\n\n{EXIT_CODES}",
        argument_default=argparse.SUPPRESS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"mpchat {__version__}")
    parser.add_argument("--config", metavar="FILE", help="a TOML file with these options")
    parser.add_argument("--print-config", action="store_true", help="show what is in force, and from where; then end")
    for option in OPTIONS:
        shown = option.shown or {True: "yes", False: "no"}.get(option.default, option.default)
        parser.add_argument(
            option.flag,
            action="append" if option.is_list else "store",
            metavar=option.metavar,
            help=f"{option.help} ({shown})",
        )
    # One program starts the next with these; see server.main.upgrade.
    parser.add_argument("--trial", metavar="FORMAT", help=argparse.SUPPRESS)
    parser.add_argument("--inherit", type=int, metavar="DESCRIPTOR", help=argparse.SUPPRESS)
    return parser


def read_config(arguments: Sequence[str] | None = None, environment: Mapping[str, str] | None = None) -> Config:
    """Return the configuration that all sources ask for. Raises ConfigError; exits with 2 for wrong usage."""
    given = vars(build_parser().parse_args(arguments))
    return make_config(_read_settings(given, environment or {}), _count_workers)


def _read_settings(given: Mapping[str, Any], environment: Mapping[str, str]) -> dict[str, Setting]:
    settings = list_defaults()
    path = _find_file(given, environment)
    if path:
        settings |= read_file(path, _load_toml(Path(path)))
    return settings | read_environment(environment) | read_arguments(given)


def _find_file(given: Mapping[str, Any], environment: Mapping[str, str]) -> str:
    return str(given.get("config", environment.get(CONFIG_VARIABLE, "")))


def _load_toml(path: Path) -> dict[str, Any]:
    """Return what is in a TOML file. Raises ConfigError."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(in_words(error)) from error
    except ValueError as error:  # no UTF-8, no TOML, a number of 5,000 digits
        raise ConfigError(f"{path}: {error}") from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the server until it is told to stop, and return the exit code. Exits with 2 for wrong usage."""
    open_standard_descriptors()
    try:
        return _run(arguments)
    finally:
        settle_standard_streams()


def _run(arguments: Sequence[str] | None) -> int:
    given = build_parser().parse_args(arguments)
    # A copy: the environment is that of the start, also when HUP reads the configuration again.
    environment = dict(os.environ)
    try:
        settings = _read_settings(vars(given), environment)
        config = make_config(settings, _count_workers)
        unblock_standard_output()
        if "print_config" in given:
            _announce("\n".join(describe(settings, config, list_unknown(environment))))
        elif "trial" in given:
            _try(config, given.trial)
        else:
            _serve(config, sys.argv[1:] if arguments is None else arguments, given, environment)
    except MpchatError as error:
        return _fail(next((code for kind, code in _EXIT_CODES if isinstance(error, kind)), 1), error)
    except Exception:
        # The interpreter would exit with 120 if it could not print this.
        log.exception("server ends after an internal error")
        return 1
    return 0


_EXIT_CODES: tuple[tuple[type[MpchatError], int], ...] = (
    *((UsageError, 2), (ConfigError, 78), (ListenError, 4), (BootError, 3), (ArchiveError, 5)),
)


def _serve(
    config: Config, arguments: Sequence[str], given: argparse.Namespace, environment: Mapping[str, str]
) -> None:
    # Imported here, since --help does not need them.
    with blame_system(BootError, "load the program"):
        from mpchat.server.main.launch import run_server
        from mpchat.server.main.supervisor import Launch
        from mpchat.server.main.upgrade.handover import read_handover
        from mpchat.server.main.upgrade.program import current_program, locate

    set_title("main")
    inherited = read_handover(given.inherit) if "inherit" in given else None
    program = current_program(environment)
    file = _find_file(vars(given), environment)
    if file and not Path(file).is_absolute():
        # As an absolute path, since the working directory may be removed. Of two --config, the last one counts.
        anywhere = ("--config", str(locate(program.folder, file)))
        arguments = [*arguments, *anywhere]
        program = program._replace(command=[*program.command, *anywhere])
    notes = tuple(f"environment variable ignored name={note}" for note in list_unknown(environment))
    config = _anchor(config, locate(program.folder, config.data))

    def reread() -> Config:
        again = read_config(arguments, environment)
        return _anchor(again, locate(program.folder, again.data))

    run_server(config, Launch(_announce, reread, program, notes), inherited)


def _try(config: Config, wanted: str) -> None:
    """Be the trial of an upgrade: start beside the running server, stop, and say that it worked. Raises MpchatError."""
    with blame_system(BootError, "load the program"):
        from mpchat.server.main.launch import run_server
        from mpchat.server.main.supervisor import Launch
        from mpchat.server.main.upgrade.handover import FORMAT, READABLE
        from mpchat.server.main.upgrade.trial import TRIAL_PASSED

    set_title("trial")
    check_log_file(config.log_file)
    if wanted not in READABLE:
        raise ServeError(f"the running program leaves a handover of format {wanted}; {__version__} reads {FORMAT}")
    # Its log lines go to standard error, which the running server reads.
    config = replace(config, host=("127.0.0.1",), port=0, workers=1, log_file="", data="")
    came_up: list[str] = []
    run_server(config, Launch(came_up.append, lambda: config, trial=True))
    if not came_up:
        raise ServeError("told to stop before it was ready")
    _announce(f"{TRIAL_PASSED}{__version__}")


def _anchor(config: Config, data: Path) -> Config:
    """The configuration with the absolute path of its data directory, if it has one."""
    return replace(config, data=str(data)) if config.data else config


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


def _count_workers() -> int:
    """Return the number of processors that this process may use, but at most WORKERS_MOST."""
    return min(count_processors(), WORKERS_MOST)


if __name__ == "__main__":
    sys.exit(main())
