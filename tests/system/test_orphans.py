"""Orphans: main reaps them when it is process 1, and leaves its own children to the parts that started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import psutil
import pytest
from server import DEADLINE, SERVER, eventually, starting_server

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="orphans come to others than process 1 on Linux only")

# In a process of its own, which takes orphans in (PR_SET_CHILD_SUBREAPER, prctl(2)) and has this to look around with.
ADOPTS = """
import ctypes, os, signal, sys, time
from mpchat.server.main.orphans import reap_orphans

assert ctypes.CDLL(None, use_errno=True).prctl(36, 1, 0, 0, 0) == 0

def start(life=signal.pause):
    pid = os.fork()
    if pid == 0:
        try:
            life()
        finally:
            os._exit(7)
    return pid

def start_orphan(life=signal.pause):
    '''Leave a process to us, as its grandparent.'''
    reader, writer = os.pipe()
    def leave():
        os.write(writer, str(start(life)).encode())
    os.waitpid(start(leave), 0)
    return int(os.read(reader, 100))

def end(pid):
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)

def is_there(pid):
    return os.path.exists(f"/proc/{pid}")
"""


def run(story: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ADOPTS + story], check=False, capture_output=True, text=True, timeout=3 * DEADLINE
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_without_children_there_is_nothing_to_do() -> None:
    run("reap_orphans(())")


def test_all_orphans_that_have_ended_are_reaped() -> None:
    run("""
orphans = [start_orphan() for _ in range(5)]
for orphan in orphans[:4]:
    end(orphan)
reap_orphans(())
assert [is_there(orphan) for orphan in orphans] == [False] * 4 + [True]
end(orphans[4])
reap_orphans(())
assert not is_there(orphans[4])
""")


def test_mains_own_child_is_left_to_the_part_that_waits_for_it() -> None:
    run("""
first, own, last = start_orphan(), start(), start_orphan()
for pid in (first, own, last):
    end(pid)
for _ in range(3):
    reap_orphans({own})
pid, status = os.waitpid(own, 0)
assert (pid, os.waitstatus_to_exitcode(status)) == (own, -signal.SIGKILL)
reap_orphans({own})
assert not is_there(first) and not is_there(last)
""")


def test_a_process_that_has_not_ended_is_not_waited_for() -> None:
    run("""
own, orphan = start(), start_orphan()
reap_orphans({own})
assert is_there(own) and is_there(orphan)
end(own), end(orphan), os.waitpid(own, 0)
reap_orphans({own})
assert not is_there(orphan)
""")


# --- the server ---------------------------------------------------------------------------------------------


@pytest.fixture
def container() -> tuple[str, ...]:
    """Run what follows as process 1 of its own."""
    command: tuple[str, ...] = ("unshare", "--pid", "--fork", "--kill-child")
    if os.geteuid() != 0:
        command = (*command, "--user", "--map-current-user")
    try:
        subprocess.run([*command, "true"], check=True, capture_output=True, timeout=3 * DEADLINE)
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"we may not make a process 1: {error}")
    return command


WITH_STRANGER = ("sh", "-c", 'sleep 1000 & exec "$@"', "sh")


def stranger_of(main: psutil.Process) -> psutil.Process:
    [stranger] = [child for child in main.children() if child.name() == "sleep"]
    return stranger


def test_as_process_1_main_reaps_orphans(container: tuple[str, ...]) -> None:
    with starting_server("--workers", "1", command=(*container, *WITH_STRANGER, *SERVER)) as server:
        server.wait_ready()
        [main] = psutil.Process(server.process.pid).children()
        alice = server.chat("alice")
        stranger = stranger_of(main)
        stranger.kill()
        eventually(lambda: not psutil.pid_exists(stranger.pid), "nothing is left of it")
        # Its own are looked after as ever.
        [worker] = [child for child in main.children() if has_connection(child, server.port)]
        worker.kill()
        server.expect_log("worker-0 ended code=-9")
        main.send_signal(signal.SIGUSR2)
        server.expect_log("the program is replaced")
        assert alice.ask("/who", "* 1 in") == "* 1 in #lobby: alice"
        assert not [child for child in main.children() if child.status() == psutil.STATUS_ZOMBIE]
        server.close_chatters()
        main.terminate()
        server.expect_exit(0)


def has_connection(process: psutil.Process, port: int) -> bool:
    return any(each.laddr.port == port for each in process.net_connections("tcp") if each.raddr)


def test_otherwise_main_leaves_orphans_alone() -> None:
    """And delays nothing: an upgrade waits for own children only."""
    with starting_server("--workers", "1", command=(*WITH_STRANGER, *SERVER)) as server:
        server.wait_ready()
        alice = server.chat("alice")
        stranger = stranger_of(psutil.Process(server.process.pid))
        server.process.send_signal(signal.SIGUSR2)
        server.expect_log("the program is replaced")
        assert alice.ask("/who", "* 1 in") == "* 1 in #lobby: alice"
        stranger.kill()
        server.close_chatters()
        server.stop()
