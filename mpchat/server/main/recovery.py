"""Recovery: when the sequencer counts as hung, and when the next one is started. Pure: it gets the
events and the time, and decides.

Owns no process and reads no clock; `sequencing` acts. `now` is always of a clock that never goes back, in seconds.
"""


class Restarts:
    """When the next sequencer may be started. Times in seconds.

    A sequencer that came up and was then killed from outside is no failure: the next one starts at once, and earlier
    failures are forgotten. After a failure, the next one starts at once if it is the first one, or if the sequencer had
    been up for `settled` seconds. Further failures are followed by pauses that double, from `least` to `most`. `most`
    is short, since every client waits and a start that the system refuses costs little.
    """

    def __init__(self, settled: float = 5.0, least: float = 0.05, most: float = 0.5, tries: int = 5) -> None:
        self._settled = settled
        self._least = least
        self._most = most
        self._tries = tries
        self._failures = 0
        self._came_up_at: float | None = None
        self.not_before = float("-inf")
        """When the next one may be started."""

    @property
    def hopeless(self) -> bool:
        """Whether `tries` starts in a row have failed."""
        return self._failures >= self._tries

    def came_up(self, now: float) -> None:
        """Note that the sequencer answers."""
        self._came_up_at = now

    def was_killed(self) -> None:
        """Note that the sequencer was killed from outside after it had come up."""
        self._came_up_at = None
        self._failures = 0

    def failed(self, now: float) -> None:
        """Note that the sequencer ended by itself, could not be started, or did not come up."""
        if self._came_up_at is not None and now - self._came_up_at >= self._settled:
            self._failures = 0
        self._came_up_at = None
        self._failures += 1
        pause = min(self._most, self._least * 2 ** min(self._failures - 2, 30)) if self._failures > 1 else 0.0
        self.not_before = now + pause


class Pulse:
    """Whether a process that answers one question at a time still does. `patience`: seconds that an answer may take."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._asked_at: float | None = None
        self._answered_at = float("-inf")
        self._looked_at = float("inf")

    def woke(self, now: float) -> None:
        """Note that this process runs. If it did not run for long, it could not have heard an answer."""
        looked_at, self._looked_at = self._looked_at, now
        if self._asked_at is not None and now - looked_at > self._patience / 2:
            self._asked_at = now

    def change(self, patience: float) -> None:
        """Change the patience."""
        self._patience = patience

    def asked(self, now: float) -> None:
        self._asked_at = now

    def answered(self, now: float) -> None:
        self._asked_at = None
        self._answered_at = now

    def is_due(self, now: float) -> bool:
        """Whether to ask now."""
        return self._asked_at is None and now - self._answered_at >= self._patience / 4

    def is_missed(self, now: float) -> bool:
        """Whether the answer is overdue."""
        return self._asked_at is not None and now - self._asked_at >= self._patience

    def deadline(self) -> float:
        """When to ask again, or when the answer will be overdue."""
        if self._asked_at is None:
            return self._answered_at + self._patience / 4
        return self._asked_at + self._patience
