"""The configuration: what can be, what cannot, and what the command line and the file make of it together."""

from __future__ import annotations

import math
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpchat import __version__
from mpchat.cli import build_parser, main, read_config
from mpchat.config import LOG_LEVELS, LOOPBACK, Config
from mpchat.errors import ConfigError


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
        "--host ::1 --port 0 --workers 3 --max-clients 10 --max-per-address 2 --rate 2.5 --burst 7 --history 20 "
        "--segment-timeout 300 --sign-on-timeout 5 --sendq 70000 --max-line 100 --beat-timeout 1.5 --drain-timeout 3 "
        "--log-level debug --log-file mpchat.log --exempt 10.0.0.0/8 --exempt 2001:db8::/32"
    )
    expected = Config(
        host="::1",
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
        (["--port", "x"], "argument --port: invalid int value: 'x'"),
        (["--workers", "many"], "argument --workers: neither a number nor auto: 'many'"),
        (["--workers", "1.5"], "argument --workers: neither a number nor auto: '1.5'"),
        (["--segment-timeout", "soon"], "argument --segment-timeout: not a number of milliseconds: 'soon'"),
        (["--log-level", "loud"], "argument --log-level: invalid choice: 'loud'"),
        (["--nonsense"], "unrecognized arguments: --nonsense"),
        (["4000"], "unrecognized arguments: 4000"),
        (["--port"], "argument --port: expected one argument"),
    ],
)
def test_wrong_usage_ends_with_2(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    said = capsys.readouterr()
    assert (said.out, words in said.err) == ("", True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--port", "70000"], "port = 70000: must be from 0 to 65535"),
        (["--rate", "nan"], "rate = nan: must be from 0 to 1000000"),
        (["--segment-timeout", "-1"], "segment_timeout = -0.001: must be from 0 to 10"),
        (["--exempt", "10.0.0.1/8"], "exempt: 10.0.0.1/8 has host bits set"),
    ],
)
def test_a_bad_configuration_ends_with_78(arguments: list[str], words: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 78
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
    for shown in ("(127.0.0.1)", "(4000)", "(5000)", "(1048576)", "(200)", "78 bad configuration"):
        assert shown in text


# --- the file -----------------------------------------------------------------------------------------------


def test_a_value_of_the_command_line_wins_over_that_of_the_file(file: Path) -> None:
    file.write_text('host = "::1"\nworkers = 7\nrate = 3\nexempt = ["10.0.0.0/8"]\nsegment_timeout = 150\n')
    expected = Config(host="::1", workers=7, rate=3, exempt=("10.0.0.0/8",), segment_timeout=0.15)
    assert read_config(["--config", str(file)]) == expected
    config = read_config(["--config", str(file), "--workers", "2", "--exempt", "", "--segment-timeout", "0"])
    assert config == Config(host="::1", workers=2, rate=3, exempt=(), segment_timeout=0.0)


def test_automatic_workers_in_the_file(file: Path) -> None:
    file.write_text('workers = "auto"\n')
    assert read_config(["--config", str(file)]) == read_config([])


def test_an_empty_list_of_networks_in_the_file(file: Path) -> None:
    file.write_text("exempt = []\n")
    assert read_config(["--config", str(file)]).exempt == ()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("prot = 4000", "there is no option prot"),
        ("max-clients = 10", "there is no option max-clients"),
        ("[server]\nport = 1", "there is no option server"),
        ('port = "4000"', "port = '4000': must be an integer"),
        ("port = 4000.0", "port = 4000.0: must be an integer"),
        ("port = true", "port = True: must be an integer"),
        ("rate = true", "rate = True: must be a number"),
        ("segment_timeout = true", "segment_timeout = True: must be a number"),
        ('segment_timeout = "200"', "segment_timeout = '200': must be a number"),
        ('workers = "many"', "workers = 'many': must be an integer"),
        ('exempt = "10.0.0.0/8"', "exempt = '10.0.0.0/8': must be a list of strings"),
        ("exempt = [10]", r"exempt = \[10\]: must be a list of strings"),
        ("port = 70000", "port = 70000: must be from 0 to 65535"),
        ("segment_timeout = 10001", "segment_timeout = 10.001: must be from 0 to 10"),
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
        if name not in ("segment_timeout", "exempt", "workers"):
            assert getattr(config, name) == value


def as_toml(value: object) -> str:
    """Python writes lists, strings without escapes and finite numbers as TOML does."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{}"
    return repr(value)
