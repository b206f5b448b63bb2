"""The options of the server: what each may be, and which of its values counts.

Owns the table of options, their textual forms, and the order of the sources. A value on the command line counts
before one in the environment, that before one in the file, and that before the default. Promises that an error names
the source and what was written there, such as ``MPCHAT_PORT=abc: must be an integer from 0 to 65535``. Reads no
arguments, environment or file by itself: `cli` does, and hands in what it has read.

A value is kept as it is written in a file: `segment_timeout` in milliseconds, `workers` as "auto" if it says so.
`make_config` turns the values into a Config.
"""

import difflib
import ipaddress
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any, NamedTuple

from mpchat.config import LOG_LEVELS, RANGES, Config
from mpchat.errors import ConfigError, UsageError

ENVIRONMENT = "MPCHAT_"
"""What the names of variables begin with."""

CONFIG_VARIABLE = f"{ENVIRONMENT}CONFIG"
"""The variable that names the file, if the command line names none."""

AUTO = "auto"


class Option(NamedTuple):
    """One option. `name` is that of the field of Config; `shown` is the default as a person reads it."""

    name: str
    metavar: str
    help: str
    shown: str = ""

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        return ENVIRONMENT + self.name.upper()

    @property
    def default(self) -> Any:
        """The default as it is written in a file."""
        value = _DEFAULTS[self.name]
        if self.name == "workers":
            return AUTO
        if self.name == "segment_timeout":
            return _simplify(value * 1000)
        return list(value) if isinstance(value, tuple) else value

    @property
    def is_list(self) -> bool:
        return isinstance(_DEFAULTS[self.name], tuple)


class Setting(NamedTuple):
    """The value of one option, as it is written in a file, and where it comes from."""

    value: Any
    source: str
    usage: bool = False
    """Whether it was given on the command line."""


_DEFAULTS: dict[str, Any] = {field.name: field.default for field in fields(Config)}

OPTIONS = (
    Option("host", "ADDRESS", "address to listen on; may be repeated (:: takes every address, IPv4 too)", "127.0.0.1"),
    Option("port", "PORT", "port to listen on; 0: any free one"),
    Option("workers", "N|auto", "worker processes; auto: as many as the CPU affinity and quota allow"),
    Option("max_clients", "N", "most clients at a time"),
    Option("max_per_address", "N", "most clients from one address at a time; 0: no limit"),
    Option(
        "exempt",
        "NETWORK",
        "network that --max-per-address does not limit; may be repeated, '' for none",
        "loopback",
    ),
    Option("rate", "LINES_PER_S", "lines per second that one client may send on average; 0: no limit"),
    Option("burst", "LINES", "lines that one client may send at once"),
    Option("history", "N", "lines to keep of every room"),
    Option(
        "segment_timeout",
        "MS",
        "milliseconds to wait for the first line end before each segment counts as a message; 0: off",
    ),
    Option("sign_on_timeout", "S", "seconds that a client has to give a name"),
    Option("sendq", "BYTES", "bytes that may wait to be sent to one client before it is disconnected"),
    Option("max_line", "BYTES", "longest line in bytes"),
    Option("beat_timeout", "S", "seconds of silence after which a worker counts as hung and is replaced"),
    Option("drain_timeout", "S", "seconds that stopping may take before clients are disconnected"),
    Option("log_level", "LEVEL", f"log this level and above: {', '.join(LOG_LEVELS)}"),
    Option("log_file", "PATH", "log to this file, reopened at HUP", "standard error"),
    Option("log_addresses", "yes|no", "whether the log names the addresses of clients"),
    Option("data", "DIR", "keep rooms and messages in this directory", "nowhere"),
    Option("keep", "DAYS", "delete messages that are older; 0: never"),
)

_BY_NAME = {option.name: option for option in OPTIONS}


# --- the sources ----------------------------------------------------------------------------------------------


def list_defaults() -> dict[str, Setting]:
    """Return the defaults."""
    return {option.name: Setting(option.default, "default") for option in OPTIONS}


def read_file(path: str, values: Mapping[str, Any]) -> dict[str, Setting]:
    """Return the settings of a TOML file with these values. Raises ConfigError."""
    settings = {}
    for name, value in values.items():
        if name not in _BY_NAME:
            raise ConfigError(f"{path}: there is no option {name}{suggest(name.replace('-', '_'), _BY_NAME)}")
        settings[name] = Setting(_check(name, value, f"{path}: {name} = {value!r}"), f"file {path}")
    return settings


def read_environment(environment: Mapping[str, str]) -> dict[str, Setting]:
    """Return the settings of the environment. Lists are separated by commas. Raises ConfigError."""
    settings = {}
    for option in OPTIONS:
        text = environment.get(option.variable)
        if text is not None:
            value = _parse(option, text.split(",") if option.is_list else [text], f"{option.variable}={text}")
            settings[option.name] = Setting(value, f"environment {option.variable}")
    return settings


def list_unknown(environment: Mapping[str, str]) -> Iterator[str]:
    """Yield each variable that begins like an option and is none, with the option that may be meant."""
    known = {CONFIG_VARIABLE, *(option.variable for option in OPTIONS)}
    for variable in sorted(environment):
        if variable.startswith(ENVIRONMENT) and variable not in known:
            # Without the beginning, which would make all of them look alike.
            name = variable.removeprefix(ENVIRONMENT).lower()
            near = suggest(name, _BY_NAME, lambda name: _BY_NAME[name].variable)
            yield f"{variable}{near}"


def read_arguments(given: Mapping[str, Any]) -> dict[str, Setting]:
    """Return the settings of the command line, by the names of options: a text each, or a list of texts. Raises
    UsageError."""
    settings = {}
    for option in OPTIONS:
        texts = given.get(option.name)
        if texts is not None:
            texts = texts if isinstance(texts, list) else [texts]
            written = " ".join(f"{option.flag} {text}" for text in texts)
            try:
                settings[option.name] = Setting(_parse(option, texts, written), "command line", usage=True)
            except ConfigError as error:
                raise UsageError(str(error)) from None
    return settings


def make_config(settings: Mapping[str, Setting], count_processors: Callable[[], int]) -> Config:
    """Return the Config of these settings. Raises ConfigError, UsageError if the command line has part in it."""
    values = {name: setting.value for name, setting in settings.items()}
    if values["workers"] == AUTO:
        values["workers"] = count_processors()
    values["segment_timeout"] = values["segment_timeout"] / 1000
    values |= {option.name: tuple(values[option.name]) for option in OPTIONS if option.is_list}
    try:
        return Config(**values)
    except ConfigError as error:
        # Each value is right by itself: two of them do not fit together.
        named = [name for name in settings if name in str(error)]
        if any(settings[name].usage for name in named):
            raise UsageError(str(error)) from None
        raise


def describe(settings: Mapping[str, Setting], config: Config, notes: Iterable[str] = ()) -> Iterator[str]:
    """Yield the lines of a file with these settings, each with a comment that says where it comes from. `config` is
    what `make_config` has made of them."""
    written = {name: f"{name} = {_as_toml(setting.value)}" for name, setting in settings.items()}
    width = max(map(len, written.values()))
    for name, text in written.items():
        value, source, _ = settings[name]
        yield f"{text:{width}}  # {source}" + (f" ({config.workers} here)" if value == AUTO else "")
    for note in notes:
        yield f"# unknown: {note}"


def suggest(name: str, known: Iterable[str], show: Callable[[str], str] = str) -> str:
    """Return a question after the one of `known` that is nearest to `name`; an empty text if none is near."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.75)
    return f": did you mean {show(near[0])}?" if near else ""


# --- values ---------------------------------------------------------------------------------------------------


def _parse(option: Option, texts: Sequence[str], written: str) -> Any:
    """Return the value of these texts. `written` is how they were written. Raises ConfigError."""
    default = option.default
    if option.is_list:
        return _check(option.name, [text.strip() for text in texts if text.strip()], written)
    text = texts[-1]
    if option.name == "workers" and text == AUTO:
        return AUTO
    value: Any = text
    try:
        if isinstance(default, bool):
            value = {"yes": True, "no": False}[text]
        elif option.name == "segment_timeout" or isinstance(default, float):
            value = float(text)
        elif isinstance(default, int) or option.name == "workers":
            value = int(text)
    except (ValueError, KeyError):
        pass  # it stays a text, which is no value of this option
    return _check(option.name, value, written, yes="yes or no")


def _check(name: str, value: Any, written: str, yes: str = "true or false") -> Any:
    """Return `value`, which has come from a file or was made from a text, if it is one of option `name`."""
    trouble = _find_trouble(name, value, yes)
    if trouble:
        raise ConfigError(f"{written}: {trouble}")
    return [value] if name == "host" and isinstance(value, str) else value


def _find_trouble(name: str, value: Any, yes: str) -> str:
    default = _DEFAULTS[name]
    if name == "workers" and value == AUTO:
        return ""
    if isinstance(default, bool):
        return "" if isinstance(value, bool) else f"must be {yes}"
    if isinstance(default, int | float):
        return _find_trouble_with_number(name, value)
    if name == "host":
        texts = [value] if isinstance(value, str) else value
        return "" if _is_texts(texts) and texts else "must be an address, or several"
    if name == "exempt":
        return _find_trouble_with_networks(value)
    if name == "log_level":
        return "" if value in LOG_LEVELS else f"must be one of {', '.join(LOG_LEVELS)}"
    return "" if isinstance(value, str) else "must be a string"


def _find_trouble_with_number(name: str, value: Any) -> str:
    least, most = (bound * (1000 if name == "segment_timeout" else 1) for bound in RANGES[name])
    whole = isinstance(_DEFAULTS[name], int)
    right = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    if right and least <= value <= most:
        return ""
    kind = "an integer" if whole else "a number"
    also = f" or {AUTO}" if name == "workers" else ""
    return f"must be {kind} from {least:g} to {_simplify(most)}{also}"


def _find_trouble_with_networks(value: Any) -> str:
    if not _is_texts(value):
        return "must be a list of strings"
    for network in value:
        try:
            ipaddress.ip_network(network)
        except ValueError as error:
            return str(error)
    return ""


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) and item for item in value)


def _simplify(number: float) -> float:
    """Return it as an integer if it is one."""
    return int(number) if number == int(number) else number


def _as_toml(value: Any) -> str:
    # JSON writes numbers, strings and lists of strings as TOML does, but for characters beyond the BMP (toml.io, v1.0).
    return json.dumps(value, ensure_ascii=False)
