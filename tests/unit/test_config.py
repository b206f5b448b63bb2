"""The configuration: what can be, what cannot, and what its sources make of it together."""

from __future__ import annotations

import math
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpchat import __version__
from mpchat.cli import build_parser, main, read_config
from mpchat.config import LOG_LEVELS, LOOPBACK, Config
from mpchat.errors import ConfigError, UsageError
from mpchat.options import OPTIONS, list_unknown


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A configuration file that a test writes."""
    return tmp_path / "mpchat.toml"


# --- the value ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("port", 0, 65535),
        ("workers", 1, 256),
        ("max_clients", 1, 1_000_000),
        ("max_per_address", 0, 1_000_000),
        ("rate", 0, 1_000_000),
        ("burst", 1, 1_000_000),
        ("history", 0, 10_000),
        ("segment_timeout", 0, 10),
        ("sign_on_timeout", 0.1, 3600),
        ("sendq", 4 * 4096, 1 << 30),
        ("max_line", 64, 1 << 16),
        ("beat_timeout", 0.5, 3600),
        ("drain_timeout", 0.1, 600),
        ("keep", 0, 100_000),
    ],
)
def test_the_bounds_of_each_number(name: str, least: float, most: float) -> None:
    for value in (least, most):
        assert getattr(Config(**{name: value}), name) == value  # type: ignore[arg-type]
    for value in (math.nextafter(least, -math.inf), math.nextafter(most, math.inf), math.inf, -math.inf, math.nan):
        with pytest.raises(ConfigError, match=name):
            Config(**{name: value})  # type: ignore[arg-type]


def test_every_number_has_bounds() -> None:
    for item in fields(Config):
        if type(item.default) in (int, float):
            with pytest.raises(ConfigError, match=item.name):
                Config(**{item.name: 1 << 40})  # type: ignore[arg-type]


def test_the_send_queue_holds_a_few_of_the_longest_lines() -> None:
    assert Config(sendq=4096, max_line=1024).sendq == 4096
    with pytest.raises(ConfigError, match="sendq = 4096: must hold four lines of max_line = 1025"):
        Config(sendq=4096, max_line=1025)


@pytest.mark.parametrize("network", ["192.0.2.0/33", "192.0.2.1/24", "example.org", "", "fe80::%eth0/64 x"])
def test_what_is_exempt_must_be_networks(network: str) -> None:
    with pytest.raises(ConfigError, match="exempt"):
        Config(exempt=("127.0.0.0/8", network))


def test_log_levels() -> None:
    assert [Config(log_level=level).log_level for level in LOG_LEVELS] == ["debug", "info", "warning", "error"]
    with pytest.raises(ConfigError, match="log_level = INFO: must be one of debug, info, warning, error"):
        Config(log_level="INFO")


# --- the command line ---------------------------------------------------------------------------------------


def test_with_no_arguments_it_is_the_default_with_a_worker_for_each_core() -> None:
    config = read_config([])
    assert config.workers >= 1
    assert config == Config(workers=config.workers)
    assert read_config(["--workers", "auto"]) == config


def test_every_option() -> None:
    arguments = (
        "--host ::1 --host 127.0.0.1 --port 0 --workers 3 "
        "--max-clients 10 --max-per-address 2 --rate 2.5 --burst 7 --history 20 "
        "--segment-timeout 300 --sign-on-timeout 5 --sendq 70000 --max-line 100 --beat-timeout 1.5 --drain-timeout 3 "
        "--log-level debug --log-file mpchat.log --log-addresses no --exempt 10.0.0.0/8 --exempt 2001:db8::/32 "
        "--data messages --keep 7.5"
    )
    expected = Config(
        host=("::1", "127.0.0.1"),
        port=0,
        workers=3,
        max_clients=10,
        max_per_address=2,
        exempt=("10.0.0.0/8", "2001:db8::/32"),
        rate=2.5,
        burst=7,
        history=20,
        segment_timeout=0.3,
        sign_on_timeout=5.0,
        sendq=70_000,
        max_line=100,
        beat_timeout=1.5,
        drain_timeout=3.0,
        log_level="debug",
        log_file="mpchat.log",
        log_addresses=False,
        data="messages",
        keep=7.5,
    )
    assert read_config(arguments.split()) == expected
    for item in fields(Config):
        assert getattr(expected, item.name) != item.default, f"{item.name} is not tried here"


def test_nothing_is_exempt() -> None:
    assert read_config([]).exempt == LOOPBACK
    assert read_config(["--exempt", ""]).exempt == ()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--nonsense"], "unrecognized arguments: --nonsense (see"),
        (["--maxclients=5"], "unrecognized arguments: --maxclients=5: did you mean --max-clients? (see"),
        (["4000"], "unrecognized arguments: 4000"),
        (["--port"], "argument --port: expected one argument"),
    ],
)
def test_wrong_usage_ends_with_2_and_one_line(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"mpchat-server: {words}")
    assert said.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--port", "abc"], "--port abc: must be an integer from 0 to 65535"),
        (["--port", "70000"], "--port 70000: must be an integer from 0 to 65535"),
        (["--workers", "many"], "--workers many: must be an integer from 1 to 256 or auto"),
        (["--workers", "1.5"], "--workers 1.5: must be an integer from 1 to 256 or auto"),
        (["--rate", "nan"], "--rate nan: must be a number from 0 to 1000000"),
        (["--segment-timeout", "-1"], "--segment-timeout -1: must be a number from 0 to 10000"),
        (["--segment-timeout", "soon"], "--segment-timeout soon: must be a number from 0 to 10000"),
        (["--sign-on-timeout", "0"], "--sign-on-timeout 0: must be a number from 0.1 to 3600"),
        (["--exempt", "10.0.0.1/8"], "--exempt 10.0.0.1/8: 10.0.0.1/8 has host bits set"),
        (["--host", ""], "--host : must be an address, or several"),
        (["--log-level", "loud"], "--log-level loud: must be one of debug, info, warning, error"),
        (["--log-addresses", "true"], "--log-addresses true: must be yes or no"),
        (["--max-line", "4096", "--sendq", "4096"], "sendq = 4096: must hold four lines of max_line = 4096"),
    ],
)
def test_a_value_that_cannot_be_is_wrong_usage_too(
    arguments: list[str], words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert capfd.readouterr().err == f"mpchat-server: {words}\n"


@pytest.mark.parametrize(("option", "words"), [("--version", f"mpchat {__version__}\n"), ("--help", "usage: ")])
def test_version_and_help_end_with_0(option: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([option])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(words)


def test_the_help_names_every_option_with_its_default_and_the_exit_codes() -> None:
    text = build_parser().format_help()
    for item in fields(Config):
        assert f"--{item.name.replace('_', '-')} " in text
    for shown in ("(127.0.0.1)", "(4000)", "(5000)", "(1048576)", "(200)", "78 bad", "TERM", "USR2", "TTIN"):
        assert shown in text


# --- the file -----------------------------------------------------------------------------------------------


def test_a_value_of_the_command_line_wins_over_that_of_the_file(file: Path) -> None:
    file.write_text('host = "::1"\nworkers = 7\nrate = 3\nexempt = ["10.0.0.0/8"]\nsegment_timeout = 150\n')
    expected = Config(host=("::1",), workers=7, rate=3, exempt=("10.0.0.0/8",), segment_timeout=0.15)
    assert read_config(["--config", str(file)]) == expected
    config = read_config(["--config", str(file), "--workers", "2", "--exempt", "", "--segment-timeout", "0"])
    assert config == Config(host=("::1",), workers=2, rate=3, exempt=(), segment_timeout=0.0)


def test_automatic_workers_in_the_file(file: Path) -> None:
    file.write_text('workers = "auto"\n')
    assert read_config(["--config", str(file)]) == read_config([])


def test_an_empty_list_of_networks_in_the_file(file: Path) -> None:
    file.write_text("exempt = []\n")
    assert read_config(["--config", str(file)]).exempt == ()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("prot = 4000", r"there is no option prot: did you mean port\?"),
        ("max-clients = 10", r"there is no option max-clients: did you mean max_clients\?"),
        ("xyz = 10", "there is no option xyz$"),
        ("[server]\nport = 1", "there is no option server$"),
        ('port = "4000"', "port = '4000': must be an integer from 0 to 65535"),
        ("host = []", r"host = \[\]: must be an address, or several"),
        ("host = 4", "host = 4: must be an address, or several"),
        ('log_addresses = "no"', "log_addresses = 'no': must be true or false"),
        ("sendq = 4096", "^sendq = 4096: must hold four lines of max_line = 4096"),
        ("port = 4000.0", "port = 4000.0: must be an integer"),
        ("port = true", "port = True: must be an integer"),
        ("rate = true", "rate = True: must be a number"),
        ("segment_timeout = true", "segment_timeout = True: must be a number"),
        ('segment_timeout = "200"', "segment_timeout = '200': must be a number"),
        ('workers = "many"', "workers = 'many': must be an integer"),
        ('exempt = "10.0.0.0/8"', "exempt = '10.0.0.0/8': must be a list of strings"),
        ("exempt = [10]", r"exempt = \[10\]: must be a list of strings"),
        ("port = 70000", "port = 70000: must be an integer from 0 to 65535"),
        ("segment_timeout = 10001", "segment_timeout = 10001: must be a number from 0 to 10000"),
        ("port = ", "mpchat.toml: Invalid value"),
        ("port = 1\nport = 2", "mpchat.toml: Cannot overwrite a value"),
        ("port = " + "1" * 5000, "mpchat.toml: Exceeds the limit"),
    ],
)
def test_what_is_wrong_with_a_file(file: Path, text: str, words: str) -> None:
    file.write_text(text)
    with pytest.raises(ConfigError, match=words):
        read_config(["--config", str(file)])


def test_a_file_that_cannot_be_read(file: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        read_config(["--config", str(file)])
    with pytest.raises(ConfigError, match="Is a directory"):
        read_config(["--config", str(file.parent)])
    file.write_bytes(b'host = "\xff"')
    with pytest.raises(ConfigError, match="decode"):
        read_config(["--config", str(file)])


# --- the environment ----------------------------------------------------------------------------------------


def test_the_command_line_counts_before_the_environment_and_that_before_the_file(file: Path) -> None:
    file.write_text("port = 1\nburst = 1\nhistory = 1\n")
    environment = {"MPCHAT_CONFIG": str(file), "MPCHAT_PORT": "2", "MPCHAT_BURST": "2"}
    config = read_config(["--port", "3"], environment)
    assert (config.port, config.burst, config.history, config.rate) == (3, 2, 1, Config().rate)


def test_a_file_on_the_command_line_counts_instead_of_the_one_in_the_environment(file: Path, tmp_path: Path) -> None:
    file.write_text("port = 1\n")
    assert read_config(["--config", str(file)], {"MPCHAT_CONFIG": str(tmp_path / "none")}).port == 1


def test_every_option_can_be_in_the_environment() -> None:
    environment = {
        "MPCHAT_HOST": "::1, 127.0.0.1",
        "MPCHAT_EXEMPT": "",
        "MPCHAT_WORKERS": "auto",
        "MPCHAT_RATE": "2.5",
        "MPCHAT_SEGMENT_TIMEOUT": "300",
        "MPCHAT_LOG_LEVEL": "debug",
        "MPCHAT_LOG_FILE": "mpchat.log",
        "MPCHAT_LOG_ADDRESSES": "no",
    }
    expected = Config(
        host=("::1", "127.0.0.1"),
        exempt=(),
        workers=read_config([]).workers,
        rate=2.5,
        segment_timeout=0.3,
        log_level="debug",
        log_file="mpchat.log",
        log_addresses=False,
    )
    assert read_config([], environment) == expected
    for option in OPTIONS:
        shown = option.default
        text = "yes" if shown is True else ",".join(shown) if isinstance(shown, list) else str(shown)
        assert read_config([], {option.variable: text}) == read_config([])


@pytest.mark.parametrize(
    ("name", "value", "trouble"),
    [
        ("PORT", "tcp://10.0.0.1:4000", "must be an integer from 0 to 65535"),  # as Kubernetes sets it for a service
        ("PORT", "", "must be an integer from 0 to 65535"),
        ("HOST", "", "must be an address, or several"),
        ("EXEMPT", "::1/128,x", "'x' does not appear to be an IPv4 or IPv6 network"),
        ("LOG_ADDRESSES", "1", "must be yes or no"),
    ],
)
def test_what_is_wrong_in_the_environment(name: str, value: str, trouble: str) -> None:
    with pytest.raises(ConfigError) as raised:
        read_config([], {f"MPCHAT_{name}": value})
    assert not isinstance(raised.value, UsageError)
    assert str(raised.value) == f"MPCHAT_{name}={value}: {trouble}"


def test_unknown_variables_are_named() -> None:
    environment = {"MPCHAT_PROT": "1", "MPCHAT_X": "1", "MPCHAT_CONFIG": "x", "MPCHAT_PORT": "1", "PATH": "x"}
    assert list(list_unknown(environment)) == ["MPCHAT_PROT: did you mean MPCHAT_PORT?", "MPCHAT_X"]


# --- what is in force ---------------------------------------------------------------------------------------


def test_what_is_printed_is_a_file_that_says_the_same_and_where_each_value_comes_from(
    file: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text('burst = 7\nport = 1\nlog_file = "a \\"b\\" ü"\n')
    monkeypatch.setenv("MPCHAT_RATE", "2")
    monkeypatch.setenv("MPCHAT_PROT", "2")
    arguments = ["--config", str(file), "--port", "2", "--exempt", ""]
    assert main([*arguments, "--print-config"]) == 0
    said = capfd.readouterr()
    assert said.err == ""
    sources = {line.partition(" =")[0]: line.partition("  # ")[2].strip() for line in said.out.splitlines()}
    assert sources.pop("# unknown: MPCHAT_PROT: did you mean MPCHAT_PORT?") == ""
    assert list(sources) == [item.name for item in fields(Config)]
    assert {name: source for name, source in sources.items() if not source.startswith("default")} == {
        "burst": f"file {file}",
        "log_file": f"file {file}",
        "rate": "environment MPCHAT_RATE",
        "port": "command line",
        "exempt": "command line",
    }
    assert sources["workers"] == f"default ({read_config([]).workers} here)"
    printed = file.with_name("printed.toml")
    printed.write_text(said.out)
    assert read_config(["--config", str(printed)]) == read_config(arguments, {"MPCHAT_RATE": "2"})
    assert list(tomllib.loads(said.out)) == list(sources)


# --- whatever a file says -----------------------------------------------------------------------------------

NAMES = st.sampled_from([item.name for item in fields(Config)])
VALUES = st.one_of(
    st.booleans(), st.integers(), st.floats(), st.just("auto"), st.just([]), st.just(["10.0.0.0/8", ""]), st.just({})
)


@given(st.dictionaries(NAMES, VALUES, max_size=3))
def test_whatever_the_file_says_there_is_a_configuration_or_an_error(
    tmp_path_factory: pytest.TempPathFactory, values: dict[str, object]
) -> None:
    file = tmp_path_factory.mktemp("config", numbered=True) / "mpchat.toml"
    file.write_text("".join(f"{name} = {as_toml(value)}\n" for name, value in values.items()))
    try:
        config = read_config(["--config", str(file)])
    except ConfigError:
        return
    for name, value in values.items():
        if name not in ("host", "segment_timeout", "exempt", "workers"):
            assert getattr(config, name) == value


def as_toml(value: object) -> str:
    """Python writes lists, strings without escapes and finite numbers as TOML does."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{}"
    return repr(value)
