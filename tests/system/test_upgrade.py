"""The whole program is replaced by another version of itself, in the same process, and nobody notices.

Two versions lie in two folders, and a link says which one is installed.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import sysconfig
import venv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from server import (
    ROOT,
    WELCOME,
    Server,
    eventually,
    expect_next,
    kill_worker_of,
    running_server,
    survivable,
    suspended,
    wait_arrived,
    wait_for_members,
)

COMMAND = (sys.executable, "-P", "-m", "mpchat")
WORDS = Path("wire", "line", "words.py")


class Installation:
    """Versions of mpchat in folders, one of which is installed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.path = folder / "installed"
        self.add("old")
        self.install("old")

    def add(self, version: str) -> Path:
        """Another version; give the folder of its package."""
        package = self._folder / version / "mpchat"
        shutil.copytree(ROOT / "mpchat", package, ignore=shutil.ignore_patterns("__pycache__"))
        self.change(package / "__init__.py", '"0.1.0"', f'"{version}"')
        self.change(package / WORDS, "* Bye, {event.name}.", f"* The {version} version says bye.")
        return package

    def change(self, file: Path, old: str, new: str) -> None:
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new))

    def install(self, version: str) -> None:
        new = self._folder / "link"
        new.symlink_to(self._folder / version)
        new.rename(self.path)


@contextmanager
def running(installation: Installation, *options: str, command: Sequence[str] = COMMAND) -> Iterator[Server]:
    env = {"PYTHONPATH": str(installation.path), "PYTHONDONTWRITEBYTECODE": "1"}
    with running_server(*options, command=command, env=env) as server:
        yield server


@pytest.fixture
def installation(tmp_path: Path) -> Installation:
    return Installation(tmp_path)


def upgrade(server: Server, times: int = 1) -> None:
    server.process.send_signal(signal.SIGUSR2)
    server.expect_log("the program is replaced old=", count=times)


def test_nobody_notices_that_the_program_is_replaced(installation: Installation) -> None:
    with running(installation, "--workers", "2", "--rate", "0") as server:
        alice, bob = server.chat("alice"), server.chat("bob")
        alice.expect("* bob joined #lobby")
        bob.say("/join den")
        bob.expect("* You are in #den, alone.")
        before = server.children()
        installation.add("new")
        installation.install("new")
        server.process.send_signal(signal.SIGUSR2)
        number = 0
        while not any("is replaced" in line for line in server.stderr):
            alice.say(f"a {number}")
            bob.say(f"b {number}")
            number += 1
            late = server.chat(f"late{number}")
            late.say("/quit")
            late.expect_end()
        for each in (alice, bob):
            each.say("the end")
        of_alice = [line for line in bob.lines_until("#lobby alice: the end") if "alice: " in line]
        assert of_alice == [f"#lobby alice: a {each}" for each in range(number)]
        assert bob.ask("/who", "* 1 in") == "* 1 in #den: bob"
        alice.say("/join den")
        assert [line for line in alice.lines_until("bob: the end") if line.startswith("bob: ")] == [
            f"bob: b {each}" for each in range(number)
        ][-19:]
        # The new version, in the same process, with the same clients and nothing of the old.
        alice.say("/quit")
        assert alice.expect_end()[-1] == "* The new version says bye."
        eventually(lambda: not any(each.is_running() for each in before), "the old processes have ended")
        assert len(server.stdout) == 1
        assert not [child for child in server.children() if child.status() == psutil.STATUS_ZOMBIE]


def test_before_anybody_has_been_there(installation: Installation) -> None:
    with running(installation, "--workers", "1") as server:
        upgrade(server)
        alice = server.chat("alice")
        upgrade(server, 2)
        assert alice.ask("/who", "* 1 in") == "* 1 in #lobby: alice"


def test_it_can_be_replaced_again_and_again(installation: Installation) -> None:
    with running(installation, "--workers", "1") as server:
        alice, before = server.chat("alice"), "old"
        descriptors = psutil.Process(server.process.pid).num_fds()
        for times in (1, 2, 3):
            version = f"v{times}"
            installation.add(version)
            installation.install(version)
            upgrade(server, times)
            server.expect_log(f"the program is replaced old={before} new={version}")
            before = version
            guest = server.chat("guest")
            guest.say("/quit")
            assert guest.expect_end()[-1] == f"* The {version} version says bye."
            alice.expect("* guest left the chat")
        eventually(
            lambda: psutil.Process(server.process.pid).num_fds() <= descriptors, "no descriptor is left over"
        )


def test_half_a_line_who_has_no_name_yet_and_what_was_not_taken_go_over(installation: Installation) -> None:
    """What waited was put into words by the old version; what is said from then on is by the new one."""
    options = ("--workers", "2", "--rate", "0", "--sendq", str(16 << 20), "--segment-timeout", "0")
    with running(installation, *options) as server:
        slow = server.connect(receive_buffer=4096)
        slow.sign_on("slow")
        alice, bob, nameless = server.chat("alice"), server.chat("bob"), server.connect()
        nameless.expect(WELCOME)
        text = "x" * 1000
        for number in range(3000):
            bob.say(f"{number} {text}")
        alice.send(b"hel")
        nameless.send(b"car")
        for chatter in (alice, bob, nameless):
            wait_arrived(server, chatter)
        package = installation.add("new")
        installation.change(package / WORDS, 'else f"{name}: "', 'else f"{name} says: "')
        installation.install("new")
        upgrade(server)
        alice.send(b"lo\n")
        nameless.send(b"ol\n")
        nameless.expect_start("* Hello, carol.")
        assert nameless.seen.count(WELCOME) == 1
        bob.expect("alice says: hello")
        lines = slow.lines_until("alice says: hello")
        assert [line for line in lines if line.startswith("bob")] == [f"bob: {number} {text}" for number in range(3000)]


@survivable
def test_after_it_workers_and_sequencer_can_die(installation: Installation) -> None:
    with running(installation, "--workers", "2") as server:
        alice, bob = server.chat("alice"), server.chat("bob")
        alice.expect("* bob joined #lobby")
        alice.say("before")
        expect_next(bob, "alice: before")
        upgrade(server)
        kill_worker_of(server, bob)
        alice.say("between")
        expect_next(bob, "alice: between")
        server.sequencer().kill()
        alice.say("after")
        expect_next(bob, "alice: after")
        carol = server.chat("carol")
        assert [line for line in carol.lines_until("alice: after") if line.startswith("alice")] == [
            "alice: before",
            "alice: between",
        ]


def test_a_version_that_does_not_come_up_is_not_taken(installation: Installation) -> None:
    with running(installation, "--workers", "2") as server:
        alice, bob = server.chat("alice"), server.chat("bob")
        alice.expect("* bob joined #lobby")
        workers = server.workers()
        package = installation.add("broken")
        module = package / "server" / "worker" / "worker.py"
        installation.change(module, "    start_logging(", "    return 1\n    start_logging(")
        installation.install("broken")
        server.process.send_signal(signal.SIGUSR2)
        assert "the workers do not come up" in server.expect_log("no upgrade reason=the version that is installed now")
        package = installation.add("missing")
        (package / "cli.py").write_text('raise ImportError("a part is missing")')
        installation.install("missing")
        server.process.send_signal(signal.SIGUSR2)
        assert "a part is missing" in server.expect_log("no upgrade reason=the version that is installed now", count=2)
        alice.say("hello")
        expect_next(bob, "alice: hello")
        assert server.workers() == workers


def test_a_version_that_does_not_come_up_is_not_taken_where_children_leave_no_status(
    installation: Installation,
) -> None:
    """Who has started the server ignored SIGCHLD, and so it would, too."""
    ignoring = "import os, sys; from signal import *; signal(SIGCHLD, SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])"
    with running(installation, "--workers", "1", command=(sys.executable, "-c", ignoring, *COMMAND)) as server:
        package = installation.add("broken")
        (package / "cli.py").write_text('raise ImportError("a part is missing")')
        installation.install("broken")
        server.process.send_signal(signal.SIGUSR2)
        assert "ended with exit code 1" in server.expect_log("no upgrade reason=the version that is installed now")
        server.chat("alice")


def test_a_version_that_does_not_say_that_it_came_up_is_not_taken(installation: Installation) -> None:
    with running(installation, "--workers", "1") as server:
        package = installation.add("silent")
        (package / "cli.py").write_text("raise SystemExit(0)")
        installation.install("silent")
        server.process.send_signal(signal.SIGUSR2)
        server.expect_log("no upgrade reason=the version that is installed now", "did not say that it came up")
        package = installation.add("stopped")
        # As by TERM, before any worker is there.
        ended = "    def _is_over(self) -> bool:\n        return True\n\n    def _unused("
        installation.change(package / "server" / "main" / "supervisor.py", "    def _is_over(", ended)
        installation.install("stopped")
        server.process.send_signal(signal.SIGUSR2)
        server.expect_log("no upgrade reason=the version that is installed now", "told to stop before it was ready")
        server.chat("alice")


def test_a_version_that_is_still_on_trial_when_we_stop_leaves_nothing(installation: Installation) -> None:
    with running(installation, "--workers", "1") as server:
        package = installation.add("slow")
        slow = "    import signal\n    signal.pause()\n"
        installation.change(package / "cli.py", "    if wanted != FORMAT:", f"{slow}    if wanted != FORMAT:")
        installation.install("slow")
        before = len(server.relatives())
        server.process.send_signal(signal.SIGUSR2)
        eventually(lambda: len(server.relatives()) > before, "it is on trial")


def test_a_version_that_closes_its_output_and_stays_is_not_taken(installation: Installation) -> None:
    with running(installation, "--workers", "1") as server:
        package = installation.add("mute")
        mute = "    import os, signal\n    os.close(1)\n    os.close(2)\n    signal.pause()\n"
        installation.change(package / "cli.py", "    if wanted != FORMAT:", f"{mute}    if wanted != FORMAT:")
        installation.install("mute")
        before = len(server.relatives())
        server.process.send_signal(signal.SIGUSR2)
        server.expect_log("no upgrade reason=the version that is installed now fails its trial")
        server.chat("alice")
        eventually(lambda: len(server.relatives()) == before, "it has ended")


def test_a_version_that_means_something_else_by_the_state_is_not_taken(installation: Installation) -> None:
    with running(installation, "--workers", "1") as server:
        alice = server.chat("alice")
        package = installation.add("other")
        installation.change(package / "server" / "main" / "upgrade.py", 'FORMAT = f"3.', 'FORMAT = f"4.')
        installation.install("other")
        server.process.send_signal(signal.SIGUSR2)
        assert "other reads 4." in server.expect_log("no upgrade")
        assert alice.ask("/who", "* 1 in") == "* 1 in #lobby: alice"


@survivable
def test_a_worker_that_hangs_keeps_the_old_program(installation: Installation) -> None:
    """And its clients are carried on with, as after any death."""
    with running(installation, "--workers", "2", "--drain-timeout", "1", "--beat-timeout", "600") as server:
        alice, bob = server.chat("alice"), server.chat("bob")
        alice.expect("* bob joined #lobby")
        with suspended(server.worker_of(alice)):
            server.process.send_signal(signal.SIGUSR2)
            server.expect_log("no upgrade reason=the workers have timed out")
        alice.say("hello")
        expect_next(bob, "alice: hello")
        upgrade(server)
        bob.say("hello")
        expect_next(alice, "bob: hello")


@survivable
@pytest.mark.parametrize("victim", ["worker", "sequencer"])
def test_a_death_in_the_middle_keeps_the_old_program(installation: Installation, victim: str) -> None:
    with running(installation, "--workers", "2", "--beat-timeout", "600") as server:
        alice, bob = server.chat("alice"), server.chat("bob")
        alice.expect("* bob joined #lobby")
        slow = server.worker_of(alice)
        with suspended(slow):
            server.process.send_signal(signal.SIGUSR2)
            server.expect_log("trial passed")
            alice.say("hello")
            (slow if victim == "worker" else server.sequencer()).kill()
            server.expect_log("no upgrade")
        expect_next(bob, "alice: hello")
        wait_for_members(alice, "alice", "bob")


def test_told_to_stop_meanwhile_it_stops_afterwards(installation: Installation) -> None:
    with running(installation, "--workers", "2", "--beat-timeout", "600") as server:
        alice = server.chat("alice")
        with suspended(server.workers()[0]):
            server.process.send_signal(signal.SIGUSR2)
            server.expect_log("trial passed")
            server.process.terminate()
            server.expect_log("stopping after the upgrade")
        assert alice.expect_end()[-1] == "! The server is stopping."
        server.close_chatters()
        server.expect_exit(0)


def test_what_was_configured_anew_counts_as_far_as_it_can(installation: Installation, tmp_path: Path) -> None:
    file = tmp_path / "mpchat.toml"
    file.write_text("workers = 1\nmax_clients = 2\nmax_line = 4096\nhistory = 100\n")
    # Where addresses are dear, the ledger has room for no more clients than were asked for at the start.
    command = ("sh", "-c", 'ulimit -v 8000000 && exec "$@"', "sh", *COMMAND)
    with running(installation, "--config", str(file), command=command) as server:
        alice = server.chat("alice")
        file.write_text('workers = 2\nmax_clients = 9\nmax_line = 8192\nhistory = 5\nhost = "127.0.0.2"\n')
        upgrade(server)
        for words in (
            "cannot be changed while the server runs options=host",
            "max_clients lowered wanted=9 to=2",
            "max_line lowered",
        ):
            server.expect_log("WARNING", words)
        bob = server.chat("bob")
        assert server.worker_of(alice) != server.worker_of(bob)
        server.connect().expect_start("! The server is full: 2 clients.")
        file.write_text('workers = 2\nhost = "127.0.0.3"\n')
        server.process.send_signal(signal.SIGHUP)
        server.expect_log("cannot be changed while the server runs options=host,history")


def test_what_was_scaled_stays(installation: Installation) -> None:
    with running(installation, "--workers", "1") as server:
        server.process.send_signal(signal.SIGTTIN)
        server.expect_log("workers from now on count=2")
        eventually(lambda: len(server.workers()) == 2, "there are two workers")
        upgrade(server)
        assert server.expect_log("mpchat ready on", ", 2 workers")


def test_another_version_than_the_one_that_was_tried_is_told(installation: Installation) -> None:
    with running(installation, "--workers", "1", "--beat-timeout", "600") as server:
        alice = server.chat("alice")
        installation.add("tried")
        installation.add("later")
        installation.install("tried")
        with suspended(server.workers()[0]):
            server.process.send_signal(signal.SIGUSR2)
            server.expect_log("trial passed: upgrading old=old new=tried")
            installation.install("later")
        server.expect_log("the program is replaced old=old new=later")
        server.expect_log("ERROR", "not the one that passed the trial new=later tried=tried")
        assert alice.ask("/who", "* 1 in") == "* 1 in #lobby: alice"


# --- releases: environments of Python, one of which a link leads to -------------------------------------------


class Releases:
    """Releases of mpchat, each in an environment of its own, one of which is the current one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.current = folder / "current"
        for version in ("1", "2"):
            self._make(version)
        self.switch("1")

    def _make(self, version: str) -> None:
        environment = self.folder / "releases" / version / ".venv"
        venv.create(environment, symlinks=True)
        packages = Path(sysconfig.get_path("purelib", "venv", {"base": str(environment)}))
        shutil.copytree(ROOT / "mpchat", packages / "mpchat", ignore=shutil.ignore_patterns("__pycache__"))
        module = packages / "mpchat" / "__init__.py"
        module.write_text(module.read_text().replace('"0.1.0"', f'"{version}"'))
        (packages / "psutil.pth").write_text(f"{Path(psutil.__file__).parents[1]}\n")
        # What pip writes for an entry of [project.scripts].
        script = environment / "bin" / "mpchat-server"
        code = "import sys\nfrom mpchat.cli import main\nif __name__ == '__main__':\n    sys.exit(main())\n"
        script.write_text(f"#!{environment}/bin/python\n{code}")
        script.chmod(0o755)

    def switch(self, version: str) -> None:
        new = self.folder / "new"
        new.symlink_to(Path("releases", version))
        new.rename(self.current)


@pytest.fixture
def releases(tmp_path: Path) -> Releases:
    return Releases(tmp_path)


def within(folder: Path, *command: str) -> tuple[str, ...]:
    """The command, in this working directory, as a shell goes there."""
    return "sh", "-c", 'cd "$0" && exec "$@"', str(folder), *command


SCRIPT = ".venv/bin/mpchat-server"
MODULE = (".venv/bin/python", "-m", "mpchat")


@pytest.mark.parametrize(
    ("folder", "command"),
    [
        (".", (f"current/{SCRIPT}",)),
        (".", ("current/.venv/bin/python", "-m", "mpchat")),
        ("current", (SCRIPT,)),
        ("current", MODULE),
        ("work", (f"../current/{SCRIPT}",)),
        ("work", ("../current/.venv/bin/python", "-P", f"../current/{SCRIPT}")),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_where_the_link_leads_is_what_is_installed(releases: Releases, folder: str, command: tuple[str, ...]) -> None:
    work = releases.folder / "work"
    work.mkdir()
    options = ("--workers", "1", "--config", os.path.relpath(releases.folder / "mpchat.toml", releases.folder / folder))
    (releases.folder / "mpchat.toml").write_text("max_clients = 1\n")
    # A link to the folder, as it is seen from there, would lead to another one.
    if folder == "current":
        options = ("--workers", "1", "--config", str(releases.folder / "mpchat.toml"))
    with running_server(*options, command=within(releases.folder / folder, *command)) as server:
        alice = server.chat("alice")
        server.expect_log("mpchat starts version=1")
        releases.switch("2")
        work.rmdir()
        (releases.folder / "mpchat.toml").write_text("max_clients = 2\n")
        upgrade(server)
        server.expect_log("trial passed: upgrading old=1 new=2")
        server.expect_log("the program is replaced old=1 new=2")
        server.chat("bob")
        releases.switch("1")
        upgrade(server, 2)
        server.expect_log("the program is replaced old=2 new=1")
        server.process.send_signal(signal.SIGHUP)
        server.expect_log(" retired")
        assert alice.ask("/who", "* 2 in") == "* 2 in #lobby: alice, bob"


def test_a_version_that_cannot_be_executed_any_more_leaves_the_old_one(releases: Releases) -> None:
    script = releases.current / SCRIPT
    options = ("--workers", "1", "--beat-timeout", "600")
    with running_server(*options, command=(str(script),)) as server:
        alice = server.chat("alice")
        with suspended(server.workers()[0]):
            server.process.send_signal(signal.SIGUSR2)
            server.expect_log("trial passed")
            script.chmod(0o644)
        server.expect_log("new program cannot be executed reason=")
        server.expect_log("the program is not replaced: it goes on version=1")
        assert alice.ask("/who", "* 1 in") == "* 1 in #lobby: alice"
        script.chmod(0o755)
        upgrade(server)
        assert alice.ask("/who", "* 1 in") == "* 1 in #lobby: alice"
