"""The lives of one server: it is started, killed as a whole, and started again with the same data and at the same port.

Owns the server that runs, and its data directory. Promises that nothing is left when it is closed.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from mpchat_tools.common.errors import ToolError
from mpchat_tools.common.faults import Faults
from mpchat_tools.common.server import OwnServer, disk_folder
from mpchat_tools.verify.kept import check_database, is_complete
from mpchat_tools.verify.reference import Seen
from mpchat_tools.verify.surroundings import Installation

BOOT_S = 30.0
LIVES_MOST = 3  # until the database is complete: a server does not wait for an archive that hangs when it ends


class Lives:
    """Close it. `command` starts the server, `user` comes before it; `with_data`: it gets a data directory."""

    def __init__(
        self,
        command: Sequence[str],
        user: Sequence[str] = (),
        installation: Installation | None = None,
        with_data: bool = False,
    ) -> None:
        """Raises ToolError."""
        self.installation = installation
        self._command = [*user, *command]
        self._stack = ExitStack()
        self._data: Path | None = None
        if with_data:
            self._data = self._stack.enter_context(disk_folder()) / "data"
            self._command += ["--data", str(self._data)]
        try:
            self.server = self._start(0)
        except BaseException:
            self._stack.close()
            raise

    @property
    def address(self) -> tuple[str, int]:
        return self.server.host, self.server.port

    def end_all(self, dice: random.Random) -> None:
        """Kill all processes at once. Raises ToolError."""
        self.server.kill_all(dice)

    def start_again(self) -> None:
        """Raises ToolError."""
        self.server.close()
        if self.installation is not None:
            self.installation.renew()
        self.server = self._start(self.server.port)

    def check_data(self, seen: Mapping[bytes, Sequence[Seen]], faults: Faults) -> int | None:
        """After the end, compare what is kept with what was seen. Return how many messages are kept, None without
        data. Raises ToolError, ArchiveError."""
        if self._data is None:
            return None
        for _ in range(LIVES_MOST - 1):
            if is_complete(self._data):
                break
            self.start_again()
            faults.merge(self.server.end())
        else:
            raise ToolError(f"the database is not complete after {LIVES_MOST} ends of the server")
        return check_database(self._data, seen, faults)

    def close(self) -> None:
        self.server.close()
        self._stack.close()

    def _start(self, port: int) -> OwnServer:
        command = [*self._command, "--port", str(port)]
        if self.installation is None:
            server = OwnServer(command)
        else:
            server = OwnServer(command, self.installation.working, self.installation.environment)
        try:
            server.address(time.monotonic() + BOOT_S)
        except BaseException:
            server.close()
            raise
        return server
