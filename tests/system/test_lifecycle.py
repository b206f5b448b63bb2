"""How the server starts and how it ends: its one line of output, its exit codes, signals, limits of the system."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import psutil
import pytest
from server import ROOT, SERVER, Server, eventually, run_mpchat, running_server, starting_server

import mpchat

ON_ONE_CORE = """
import os, sys
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
os.execv(sys.argv[1], sys.argv[1:])
"""
BOOTS_LATE = (sys.executable, str(ROOT / "tests" / "support" / "faulty_worker.py"), "late")
BOOTS_NEVER = (sys.executable, str(ROOT / "tests" / "support" / "faulty_worker.py"), "never")
STOPPING = "! The server is stopping."


def block_of(count: int) -> list[str]:
    return [f"line {number}" for number in range(count)]


# --- the start ----------------------------------------------------------------------------------------------


def test_standard_output_is_one_line_that_says_where() -> None:
    with running_server("--workers", "2") as server:
        assert server.ready_line == f"mpchat ready on 127.0.0.1:{server.port}, 2 workers"
        assert server.port != 0
        server.chat("alice").say("hello")
        server.close_chatters()
        server.stop()
        assert server.stdout == [server.ready_line]


def test_ready_means_that_every_worker_is() -> None:
    with starting_server("--workers", "2", command=BOOTS_LATE) as server:
        server.expect_log("worker-1 started")
        _, late = server.workers()
        eventually(lambda: late.status() == psutil.STATUS_STOPPED, "the second worker waits")
        assert server.stdout == []
        late.resume()
        server.wait_ready()
        clients = [server.connect() for _ in range(2)]
        assert {server.worker_of(client) for client in clients} == set(server.workers())
        server.close_chatters()
        server.stop()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs cores that can be chosen")
def test_workers_auto_is_one_for_each_core_that_may_be_used() -> None:
    with running_server("--workers", "auto", command=(sys.executable, "-c", ON_ONE_CORE, *SERVER)) as server:
        assert server.ready_line.endswith(", 1 worker")


def test_it_listens_on_ipv6() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")
    with running_server("--host", "::1", "--workers", "1") as server:
        assert server.ready_line == f"mpchat ready on [::1]:{server.port}, 1 worker"
        server.chat("alice")


def test_the_installed_command_is_the_same(tmp_path: Path) -> None:
    # What pip writes for an entry of [project.scripts].
    script = tmp_path / "mpchat-server"
    script.write_text("import sys\nfrom mpchat.cli import main\nif __name__ == '__main__':\n    sys.exit(main())\n")
    command = (sys.executable, str(script))
    with running_server("--workers", "2", command=command, env={"PYTHONPATH": str(ROOT)}) as server:
        server.chat("alice")


@pytest.mark.parametrize("argument", ["--help", "--version"])
def test_questions_are_answered_without_a_server(argument: str) -> None:
    done = run_mpchat(argument)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: mpchat-server" if argument == "--help" else f"mpchat {mpchat.__version__}\n")


# --- exit codes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["--nonsense"], ["--workers", "x"], ["--port", "65536"], ["--port"], ["more"]])
def test_wrong_usage(arguments: list[str]) -> None:
    done = run_mpchat(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("mpchat-server: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "trouble"),
    [
        ("workers = ", "Invalid value"),
        ("worker = 2\n", "worker"),
        ("workers = '2'\n", "workers"),
        (None, "No such file"),
    ],
)
def test_files_that_cannot_be(text: str | None, trouble: str, tmp_path: Path) -> None:
    path = tmp_path / "mpchat.toml"
    if text is not None:
        path.write_text(text)
    done = run_mpchat("--config", str(path))
    assert (done.returncode, done.stdout) == (78, "")
    assert done.stderr.startswith(f"mpchat-server: {path}: ")
    assert trouble in done.stderr


def test_the_command_line_wins_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mpchat.toml"
    path.write_text("workers = 3\nmax_line = 64\n")
    with running_server("--config", str(path), "--workers", "1") as server:
        assert server.ready_line.endswith(", 1 worker")
        alice = server.chat("alice")
        alice.say("x" * 65)
        alice.expect("! That line is too long: 64 bytes at most. It was not sent.")


def test_options_from_the_environment_stay_those_of_the_start(tmp_path: Path) -> None:
    """The log names variables that are no options. HUP reads the file again, and the environment counts before it."""
    path = tmp_path / "mpchat.toml"
    path.write_text("max_line = 100\n")
    env = {"MPCHAT_CONFIG": str(path), "MPCHAT_MAX_CLIENTS": "1", "MPCHAT_WORKER": "7"}
    with running_server("--workers", "1", env=env) as server:
        server.expect_log(" WARNING environment variable ignored name=MPCHAT_WORKER: did you mean MPCHAT_WORKERS?")
        path.write_text("max_line = 100\nmax_clients = 5\nrate = 99\n")
        server.process.send_signal(signal.SIGHUP)
        server.expect_log("worker-0 retired")
        alice = server.chat("alice")
        assert server.connect().expect_end() == ["! The server is full: 1 client. Try again later."]
        alice.say("x" * 101)
        alice.expect("! That line is too long: 100 bytes at most. It was not sent.")


def test_a_bad_value_in_the_environment() -> None:
    env = {**os.environ, "MPCHAT_PORT": "x"}
    done = subprocess.run(SERVER, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60, env=env)
    assert (done.returncode, done.stdout) == (78, "")
    assert done.stderr == "mpchat-server: MPCHAT_PORT=x: must be an integer from 0 to 65535\n"


def test_a_port_in_use() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        port = other.getsockname()[1]
        done = run_mpchat("--port", str(port))
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr == f"mpchat-server: cannot listen: the address 127.0.0.1:{port} is in use\n"


def test_an_address_that_is_not_ours() -> None:
    done = run_mpchat("--host", "192.0.2.1", "--port", "0")  # of TEST-NET-1 (RFC 5737)
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr == "mpchat-server: cannot listen: this machine does not have the address 192.0.2.1:0\n"


def test_workers_that_do_not_come_up() -> None:
    with starting_server("--workers", "2", command=BOOTS_NEVER) as server:
        server.expect_exit(3)
        assert server.stdout == []
        assert server.stderr[-1].startswith("mpchat-server: the workers do not come up: ")
        assert len([line for line in server.stderr if "worker-0 started" in line]) < 10, "tried over and over"


# --- the end ------------------------------------------------------------------------------------------------


def test_term_tells_everybody_and_delivers_what_was_sent_before() -> None:
    block = block_of(50)
    with running_server("--workers", "2") as server:
        alice, bob = server.chat("alice"), server.chat("bob")
        bob.say("ready")
        alice.expect("bob: ready")
        alice.send("".join(f"{line}\n" for line in block).encode())
        server.process.terminate()
        assert bob.expect_end() == [*(f"alice: {line}" for line in block), STOPPING]
        assert alice.expect_end() == [STOPPING]
        server.close_chatters()
        server.expect_exit(0)


def test_term_does_not_wait_for_the_rate() -> None:
    block = block_of(50)
    with running_server("--workers", "2", "--rate", "0.01", "--burst", "5") as server:
        alice, bob = server.chat("alice"), server.chat("bob")
        alice.send("".join(f"{line}\n" for line in block).encode())
        bob.expect("alice: line 3")
        server.process.terminate()
        assert bob.expect_end() == [*(f"alice: {line}" for line in block[4:]), STOPPING]
        server.close_chatters()
        server.expect_exit(0)


def test_a_client_that_comes_while_the_server_stops_is_refused_by_the_system() -> None:
    with running_server("--workers", "1", "--drain-timeout", "60") as server:
        held_up(server)
        with pytest.raises(ConnectionRefusedError):
            server.connect()


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_at_once(second: signal.Signals) -> None:
    with running_server("--workers", "2", "--drain-timeout", "600") as server:
        held_up(server)
        server.stop(second)
        assert f"ending at once signal={second.name}" in server.stderr[-1]


def test_int_tells_clients_and_waits_for_none() -> None:
    """Nor for what they have sent and may not say yet, nor for one that does not read and so does not end its side."""
    with running_server("--workers", "2", "--drain-timeout", "600", "--rate", "0.01", "--burst", "5") as server:
        alice, bob = server.chat("alice"), server.chat("bob")
        alice.send("".join(f"{line}\n" for line in block_of(50)).encode())
        bob.expect("alice: line 3")
        server.stop(signal.SIGINT)
        assert bob.expect_end()[-1] == STOPPING
        assert alice.expect_end()[-1] == STOPPING
        assert "alice: line 5" not in bob.seen


def test_int_does_not_wait_for_a_worker_that_hangs() -> None:
    with running_server("--workers", "2", "--drain-timeout", "600", "--beat-timeout", "600") as server:
        alice = server.chat("alice")
        for worker in server.workers():
            worker.suspend()
        server.stop(signal.SIGINT)
        alice.expect_end()


def test_stopping_takes_no_longer_than_allowed() -> None:
    with running_server("--workers", "2", "--drain-timeout", "0.5") as server:
        held_up(server)
        server.expect_exit(0)
        assert "stopping timed out" in server.stderr[-1]


def held_up(server: Server) -> None:
    """Tell the server to stop while one of its workers cannot."""
    server.workers()[0].suspend()
    server.process.terminate()
    server.expect_log("stopping")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_all_processes_is_one_to_main(number: signal.Signals) -> None:
    """As a terminal does (SIGINT to its group) and a service manager (SIGTERM to its control group)."""
    with running_server("--workers", "2") as server:
        alice, bob = server.chat("alice"), server.chat("bob")
        for process in server.children():
            process.send_signal(number)
        server.process.send_signal(number)
        ends = [each.expect_end()[-1:] for each in (alice, bob)]
        server.close_chatters()
        server.expect_exit(0)
        assert ends == [[STOPPING]] * 2


def test_term_before_it_is_ready() -> None:
    with starting_server("--workers", "2", "--drain-timeout", "600", command=BOOTS_LATE) as server:
        server.expect_log("worker-1 started")
        server.stop()
        assert server.stdout == []


# --- signals that were ignored or blocked before -------------------------------------------------------------

DEAF = """
import os, signal, sys
for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
    signal.signal(number, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
os.execv(sys.argv[1], sys.argv[1:])
"""


def test_signals_that_its_parent_ignores_are_obeyed() -> None:
    """Ignored and blocked signals stay so across fork and exec (signal(7))."""
    with running_server("--workers", "1", command=(sys.executable, "-c", DEAF, *SERVER)) as server:
        server.process.send_signal(signal.SIGHUP)
        server.expect_log(" retired")
        [worker] = server.workers()
        worker.kill()
        server.expect_log("ended code=-9")
        assert server.chat("alice").ask("/who", "* 1 in") == "* 1 in #lobby: alice"
        server.close_chatters()
        server.stop()


# --- limits of the system -----------------------------------------------------------------------------------


def limited(soft: int, hard: int) -> tuple[str, ...]:
    """The server command under these limits on open files."""
    return "sh", "-c", f'ulimit -Sn {soft} && ulimit -Hn {hard} && exec "$@"', "sh", *SERVER


def test_the_limit_on_open_files_is_raised_as_far_as_it_goes() -> None:
    with running_server("--workers", "1", "--max-clients", "50", command=limited(100, 300)) as server:
        if sys.platform == "linux":
            assert psutil.Process(server.process.pid).rlimit(psutil.RLIMIT_NOFILE) == (300, 300)
            assert server.workers()[0].rlimit(psutil.RLIMIT_NOFILE) == (300, 300)
        assert not [line for line in server.stderr if "open files" in line]


def test_a_limit_on_open_files_that_is_too_low_is_said_and_kept() -> None:
    with running_server("--workers", "1", command=limited(300, 300)) as server:
        server.expect_log("WARNING", "max_clients lowered wanted=5000 to=168 reason=limit of 300 open files")
        clients = [server.connect() for _ in range(168)]
        for client in clients:
            client.expect("* Welcome to mpchat. What is your name?")
        assert server.connect().expect_end() == ["! The server is full: 168 clients. Try again later."]
        clients[0].close()
        eventually(lambda: server.connect().expect_start("").startswith("* Welcome"), "room for one more")
