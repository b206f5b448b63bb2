"""The fan-out: from effects to one block of bytes per session and flush.

Owns, for each session of this worker, what it is to be sent at the next flush. Promises: what a session is sent is in
the order of the log; a flush hands each session one block, however many events have come; all members of a room who are
shown the same get the same block, encoded and joined once. Never touches a socket: blocks go to a `Sink`.

How. An event for a room is put into the room's *channel* once, not into each member's queue, so an event costs the same
in a room of 10 and of 10,000. A member remembers where in the channel it starts. At the flush, a member of one room
whose channel holds nothing that it must not see takes the channel's joined block; only who speaks, ignores, is quiet or
is in several rooms gets a block of its own, merged by the order of the events. When what a session is to be shown
changes (`Changed`: it enters, leaves, is renamed ...), what it has coming so far is settled first.

What is done for each receiver of each flush is what this server's speed hangs on, beside the `send` itself: for the
members of one room it is one turn of the loop in `_share`, and nothing that calls Python.
"""

from collections.abc import Callable, Hashable, Iterable
from typing import Generic, NamedTuple, Protocol, TypeVar
from weakref import WeakValueDictionary

from mpchat.chat.entries import SessionId
from mpchat.chat.events import Changed, Effect, Event, Gone, Message, ToEverybody, Told, ToPeers, ToRoom, ToSession
from mpchat.chat.rules.replica import Replica
from mpchat.chat.state.state import Session
from mpchat.wire.dialect import Dialect


class Sink(Protocol):
    """Where a session's output goes."""

    def send(self, block: bytes) -> None:
        """Send these bytes behind all that was sent before."""

    def finish(self) -> None:
        """Nothing more will be sent: when all is written, end the connection."""


S = TypeVar("S", bound=Sink)


class _Look:
    """A view of a dialect (`Dialect.view`). There is one object for all subscribers who share it, so that two looks are
    compared by `is`, and found in a dict by the hash of an object."""

    __slots__ = ("__weakref__", "dialect", "view")

    def __init__(self, dialect: Dialect, view: Hashable) -> None:
        self.dialect = dialect
        self.view = view


class _Item(NamedTuple):
    """One event of a channel. `author` and `noise`: see ToRoom."""

    order: int
    time: int
    author: str
    noise: bool
    event: Event


class _Channel(Generic[S]):
    """The events of one room since the last flush, and its members in this worker."""

    __slots__ = ("_blocks", "_pieces", "authors", "items", "members", "noisy", "room")

    def __init__(self, room: str) -> None:
        self.room = room
        self.members: dict[_Subscriber[S], int] = {}  # where in `items` each starts
        self.items: list[_Item] = []
        self.authors: set[str] = set()
        self.noisy = False
        self._pieces: dict[_Look, list[bytes]] = {}
        self._blocks: dict[_Look, bytes] = {}

    def add(self, item: _Item) -> None:
        self.items.append(item)
        self.authors.add(item.author)
        self.noisy |= item.noise
        self._blocks.clear()

    def pieces(self, look: _Look) -> list[bytes]:
        """Each item in this look, encoded once."""
        pieces = self._pieces.setdefault(look, [])
        encode, view = look.dialect.encode, look.view
        for item in self.items[len(pieces) :]:
            pieces.append(encode(item.event, item.time, view))
        return pieces

    def block(self, look: _Look) -> bytes:
        """All items in this look, joined once."""
        block = self._blocks.get(look)
        if block is None:
            block = self._blocks[look] = b"".join(self.pieces(look))
        return block

    def clear(self) -> None:
        self.items.clear()
        self.authors.clear()
        self.noisy = False
        self._pieces.clear()
        self._blocks.clear()


class _Subscriber(Generic[S]):
    """One session of this worker, and what it is to be shown.

    `simple`: how it is shown its only room, if it is in one room and ignores nobody. `look`: how it is shown what is
    for itself.
    """

    __slots__ = ("dialect", "key", "look", "personal", "quiet", "ready", "rooms", "sid", "simple", "sink", "skip")

    def __init__(self, sid: SessionId, sink: S, dialect: Dialect, look: _Look) -> None:
        self.sid = sid
        self.sink = sink
        self.dialect = dialect
        self.look = look
        self.key = ""
        self.simple: _Look | None = None
        self.rooms: dict[str, _Look] = {}
        self.skip: frozenset[str] | tuple[str] = frozenset()
        self.quiet = False
        self.personal: list[tuple[int, bytes]] = []
        self.ready: list[bytes] = []

    def hides(self, author: str, noise: bool) -> bool:
        return author in self.skip or (noise and self.quiet)


class Fanout(Generic[S]):
    """What the sessions of one worker are to be sent: each from its `attach` on."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._subscribers: dict[SessionId, _Subscriber[S]] = {}
        self._channels: dict[str, _Channel[S]] = {}
        self._dirty: dict[_Subscriber[S] | _Channel[S], None] = {}
        self._leaving: dict[SessionId, _Subscriber[S]] = {}  # gone, but for the last flush
        self._looks: WeakValueDictionary[tuple[Dialect, Hashable], _Look] = WeakValueDictionary()
        self._order = 0
        self.pending = 0
        """About how many bytes wait for the flush, counted once per event."""

    def __len__(self) -> int:
        return len(self._subscribers)

    def attach(self, sid: SessionId, sink: S, dialect: Dialect) -> None:
        """This worker has the connection of `sid`; its output, from what is applied next on, goes to `sink`."""
        subscriber = self._subscribers[sid] = _Subscriber(sid, sink, dialect, self._look(dialect, None, None))
        self._subscribe(subscriber)

    def detach(self, sid: SessionId) -> None:
        """The connection of `sid` is gone: nothing more is sent to it."""
        subscriber = self._subscribers.pop(sid, None) or self._leaving.pop(sid, None)
        if subscriber is not None:
            self._unsubscribe(subscriber)
            self._dirty.pop(subscriber, None)

    def deliver(self, effects: Iterable[Effect], time: int) -> None:
        """Take the effects of one entry, which was applied to the replica just now."""
        for effect in effects:
            if isinstance(effect, Told):
                self._order += 1
                self._tell(effect, time)
            else:
                subscriber = self._subscribers.get(effect.sid)
                if subscriber is not None:
                    self._settle(subscriber, [self._channels[room] for room in subscriber.rooms])
                    if isinstance(effect, Changed):
                        self._subscribe(subscriber)
                    else:
                        self._leave(subscriber, effect)

    def flush(self, notice: Callable[[Iterable[S]], None] | None = None) -> None:
        """Send what has come since the last flush: one block to each session that has any. `notice` is told to whom,
        before anything is sent."""
        blocks: list[tuple[S, bytes]] = []
        others: dict[_Subscriber[S], list[_Channel[S]]] = {}
        for source in self._dirty:
            if isinstance(source, _Channel):
                self._share(source, blocks, others)
            else:
                others.setdefault(source, [])
        for subscriber, channels in others.items():
            self._settle(subscriber, channels)
        for source in self._dirty:
            if isinstance(source, _Channel):
                source.clear()
                source.members = dict.fromkeys(source.members, 0)
        self._dirty.clear()
        self.pending = 0
        for subscriber in others:
            ready, subscriber.ready = subscriber.ready, []
            if ready:
                blocks.append((subscriber.sink, ready[0] if len(ready) == 1 else b"".join(ready)))
        if notice is not None:
            notice([sink for sink, _ in blocks])
        # Only now: who cannot be sent to may be detached meanwhile.
        for sink, block in blocks:
            sink.send(block)
        leaving, self._leaving = self._leaving, {}
        for subscriber in leaving.values():
            subscriber.sink.finish()

    def _share(
        self, channel: _Channel[S], blocks: list[tuple[S, bytes]], others: dict[_Subscriber[S], list[_Channel[S]]]
    ) -> None:
        """Give the channel's block to all who are to be sent just that; the `others` need care, in this channel too."""
        authors, noisy = channel.authors, channel.noisy
        last: _Look | None = None  # nearly always that of the next one, too
        block = b""
        for subscriber, start in channel.members.items():
            look = subscriber.simple
            if (
                look is None
                or start
                or subscriber.key in authors
                or subscriber.personal
                or subscriber.ready
                or (noisy and subscriber.quiet)
            ):
                others.setdefault(subscriber, []).append(channel)
            else:
                if look is not last:
                    last, block = look, channel.block(look)
                blocks.append((subscriber.sink, block))

    def _tell(self, told: Told, time: int) -> None:
        audience = told.audience
        if isinstance(audience, ToRoom):
            self._tell_room(audience.room, audience, told.event, time)
        elif isinstance(audience, ToSession):
            subscriber = self._subscribers.get(audience.sid)
            if subscriber is not None:
                self._tell_one(subscriber, told.event, time)
        elif isinstance(audience, ToPeers):
            self._tell_peers(audience, told.event, time)
        else:
            assert isinstance(audience, ToEverybody)
            for subscriber in self._subscribers.values():
                self._tell_one(subscriber, told.event, time)

    def _tell_one(self, subscriber: _Subscriber[S], event: Event, time: int) -> None:
        look = subscriber.look
        piece = look.dialect.encode(event, time, look.view)
        subscriber.personal.append((self._order, piece))
        self._dirty[subscriber] = None
        self.pending += len(piece)

    def _tell_room(self, room: str, audience: ToRoom | ToPeers, event: Event, time: int) -> None:
        channel = self._channels.get(room)
        if channel is None:
            return
        channel.add(_Item(self._order, time, audience.author, audience.noise, event))
        self._dirty[channel] = None
        self.pending += _about_size(event)

    def _tell_peers(self, audience: ToPeers, event: Event, time: int) -> None:
        if len(audience.rooms) == 1:
            self._tell_room(audience.rooms[0], audience, event, time)
            return
        channels = [self._channels[room] for room in audience.rooms if room in self._channels]
        peers = dict.fromkeys(member for channel in channels for member in channel.members)
        for peer in peers:
            if not peer.hides(audience.author, audience.noise):
                self._tell_one(peer, event, time)

    def _subscribe(self, subscriber: _Subscriber[S]) -> None:
        """What the session is to be shown is what its replica says now."""
        session = self._replica.session(subscriber.sid)
        self._unsubscribe(subscriber)
        if session is None:
            return
        # Nearly all skip only themselves, and a set takes 200 bytes.
        subscriber.skip = frozenset((session.key, *session.ignores)) if session.ignores else (session.key,)
        subscriber.key = session.key
        subscriber.quiet = session.quiet
        subscriber.look = self._look(subscriber.dialect, session, None)
        for room in session.rooms:
            look = subscriber.rooms[room] = self._look(subscriber.dialect, session, room)
            channel = self._channels.get(room)
            if channel is None:
                channel = self._channels[room] = _Channel(room)
            channel.members[subscriber] = len(channel.items)
        if len(session.rooms) == 1 and not session.ignores:
            subscriber.simple = look

    def _look(self, dialect: Dialect, session: Session | None, room: str | None) -> _Look:
        view = dialect.view(session, room)
        look = self._looks.get((dialect, view))
        if look is None:
            look = self._looks[dialect, view] = _Look(dialect, view)
        return look

    def _unsubscribe(self, subscriber: _Subscriber[S]) -> None:
        subscriber.simple = None
        for room in subscriber.rooms:
            channel = self._channels[room]
            del channel.members[subscriber]
            if not channel.members:
                del self._channels[room]
                self._dirty.pop(channel, None)
        subscriber.rooms.clear()

    def _leave(self, subscriber: _Subscriber[S], gone: Gone) -> None:
        self._unsubscribe(subscriber)
        self._leaving[gone.sid] = self._subscribers.pop(gone.sid)

    def _settle(self, subscriber: _Subscriber[S], channels: Iterable[_Channel[S]]) -> None:
        """Move what the session has coming, up to now, in order, into its `ready`; from here on it starts anew.
        `channels`: all of its rooms that have something in them; of 50 rooms, few do."""
        sources: list[tuple[_Channel[S], _Look, int]] = []
        for channel in channels:
            start = channel.members[subscriber]
            if start < len(channel.items):
                sources.append((channel, subscriber.rooms[channel.room], start))
                channel.members[subscriber] = len(channel.items)
        if len(sources) == 1 and not subscriber.personal:
            self._settle_from(subscriber, *sources[0])
        elif sources or subscriber.personal:
            parts = subscriber.personal
            for channel, look, start in sources:
                parts += _visible(subscriber, channel, look, start)
            parts.sort()
            subscriber.personal = []
            if parts:
                subscriber.ready.append(b"".join([piece for _, piece in parts]))
                self._dirty[subscriber] = None

    def _settle_from(self, subscriber: _Subscriber[S], channel: _Channel[S], look: _Look, start: int) -> None:
        """The common case: one room, and nothing else."""
        shared = channel.authors.isdisjoint(subscriber.skip) and not (channel.noisy and subscriber.quiet)
        if shared and start == 0:
            subscriber.ready.append(channel.block(look))
        else:
            block = b"".join([piece for _, piece in _visible(subscriber, channel, look, start)])
            if block:
                subscriber.ready.append(block)
        self._dirty[subscriber] = None


def _about_size(event: Event) -> int:
    """About how many bytes the event of a room is; each line of a run has the name before it."""
    if isinstance(event, Message):
        return sum(map(len, event.texts)) + len(event.texts) * (len(event.name.encode()) + len(": \n"))
    return 64


def _visible(subscriber: _Subscriber[S], channel: _Channel[S], look: _Look, start: int) -> list[tuple[int, bytes]]:
    """The items of `channel` from `start` on that the session may see, each with its place in the order."""
    pieces = channel.pieces(look)
    return [
        (item.order, pieces[number])
        for number, item in enumerate(channel.items[start:], start)
        if not subscriber.hides(item.author, item.noise)
    ]
