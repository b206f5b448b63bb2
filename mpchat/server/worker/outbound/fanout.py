"""The fan-out: from effects to one block of bytes per session and flush.

Owns what each session of this worker is to be sent at the next flush. Promises that a session is sent its events in
the order of the log; that a flush hands each session one block, however many events there are; and that all members of
a room who are shown the same get the same block, encoded and joined once. Never touches a socket: blocks go to a
`Sink`.

An event for a room is put into the room's *channel* once, not into each member's queue, so an event costs the same in a
room of 10 and of 10,000. A member remembers where in the channel it starts. At the flush, a member of one room takes
the channel's joined block, unless it must not see all of it. Only a member that speaks, ignores somebody, is quiet or
is in several rooms gets a block of its own, merged in the order of the events. When it changes what a session is to be
shown (`Changed`: it enters, leaves, is renamed ...), the events that it has coming are settled first.

Beside `send` itself, the work for each receiver of each flush decides how fast this server is. For the members of one
room it is one turn of the loop in `_share`, without a call of a Python function.
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
    """Takes a session's output."""

    def send(self, block: bytes) -> None:
        """Send these bytes behind all that was sent before."""

    def named(self, name: str) -> None:
        """The session has this name; perhaps it had it before."""

    def left(self, name: str, reason: str) -> None:
        """The session is over. Its last output and `finish` follow."""

    def finish(self) -> None:
        """Nothing more will be sent: when all is written, end the connection."""


S = TypeVar("S", bound=Sink)


class _Look:
    """A view of a dialect (`Dialect.view`).

    All subscribers with the same view share one object, so that looks are compared by `is` and hashed by identity.
    """

    __slots__ = ("__weakref__", "dialect", "view")

    def __init__(self, dialect: Dialect, view: Hashable) -> None:
        self.dialect = dialect
        self.view = view


class _Item(NamedTuple):
    """One event of a channel. `author` and `noise`: see ToRoom."""

    order: int
    time: int
    author: SessionId
    noise: bool
    event: Event


class _Channel(Generic[S]):
    """The events of one room since the last flush, and its members in this worker."""

    __slots__ = ("_blocks", "_pieces", "authors", "items", "members", "noisy", "room")

    def __init__(self, room: str) -> None:
        self.room = room
        self.members: dict[_Subscriber[S], int] = {}  # where in `items` each starts
        self.items: list[_Item] = []
        self.authors: set[SessionId] = set()
        self.noisy = False
        self._pieces: dict[_Look, list[bytes]] = {}
        self._blocks: dict[_Look, bytes] = {}

    def add(self, item: _Item) -> None:
        self.items.append(item)
        self.authors.add(item.author)
        self.noisy |= item.noise
        self._blocks.clear()

    def pieces(self, look: _Look) -> list[bytes]:
        """Return each item in this look. Each is encoded once."""
        pieces = self._pieces.setdefault(look, [])
        encode, view = look.dialect.encode, look.view
        for item in self.items[len(pieces) :]:
            pieces.append(encode(item.event, item.time, view))
        return pieces

    def block(self, look: _Look) -> bytes:
        """Return all items in this look, joined once."""
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

    `simple`: the look of its only room, if it is in one room and ignores nobody; else None. `look`: that of events for
    itself.
    """

    __slots__ = ("dialect", "look", "personal", "quiet", "ready", "rooms", "sid", "simple", "sink", "skip")

    def __init__(self, sid: SessionId, sink: S, dialect: Dialect, look: _Look) -> None:
        self.sid = sid
        self.sink = sink
        self.dialect = dialect
        self.look = look
        self.simple: _Look | None = None
        self.rooms: dict[str, _Look] = {}
        self.skip: frozenset[SessionId] | tuple[SessionId] = frozenset()
        self.quiet = False
        self.personal: list[tuple[int, bytes]] = []
        self.ready: list[bytes] = []

    def hides(self, author: SessionId, noise: bool) -> bool:
        return author in self.skip or (noise and self.quiet)


class Fanout(Generic[S]):
    """What the sessions of one worker are to be sent, each from its `attach` on."""

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
        """Send the output of session `sid`, from the next entry on, to `sink`."""
        subscriber = self._subscribers[sid] = _Subscriber(sid, sink, dialect, self._look(dialect, None, None))
        self._subscribe(subscriber)

    def detach(self, sid: SessionId) -> None:
        """Send session `sid` nothing more: its connection is gone."""
        subscriber = self._subscribers.pop(sid, None) or self._leaving.pop(sid, None)
        if subscriber is not None:
            self._unsubscribe(subscriber)
            self._dirty.pop(subscriber, None)

    def deliver(self, effects: Iterable[Effect], time: int) -> None:
        """Take the effects of one entry. It must be the one that was last applied to the replica."""
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

    def flush(self, on_sending: Callable[[Iterable[S]], None] | None = None) -> None:
        """Send what has come since the last flush, as one block to each session that has any.

        `on_sending` is called with the sinks before anything is sent.
        """
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
        if on_sending is not None:
            on_sending([sink for sink, _ in blocks])
        # Not before: a sink that cannot be sent to may detach its session.
        for sink, block in blocks:
            sink.send(block)
        leaving, self._leaving = self._leaving, {}
        for subscriber in leaving.values():
            subscriber.sink.finish()

    def _share(
        self, channel: _Channel[S], blocks: list[tuple[S, bytes]], others: dict[_Subscriber[S], list[_Channel[S]]]
    ) -> None:
        """Append the channel's block to `blocks` for each member that gets just that. Add the others to `others`."""
        authors, noisy = channel.authors, channel.noisy
        last: _Look | None = None  # the next member nearly always has the same
        block = b""
        for subscriber, start in channel.members.items():
            look = subscriber.simple
            if (
                look is None
                or start
                or subscriber.sid in authors
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
        """Show the session what the replica now says that it is to be shown."""
        session = self._replica.session(subscriber.sid)
        self._unsubscribe(subscriber)
        if session is None:
            return
        # Nearly all skip only themselves, and a set takes 200 bytes.
        subscriber.skip = frozenset((session.sid, *session.ignores)) if session.ignores else (session.sid,)
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
        if session.name:
            subscriber.sink.named(session.name)

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
        subscriber.sink.left(gone.name, gone.reason)
        self._leaving[gone.sid] = self._subscribers.pop(gone.sid)

    def _settle(self, subscriber: _Subscriber[S], channels: Iterable[_Channel[S]]) -> None:
        """Move what the session has coming into its `ready`, in order. `channels`: those of its rooms with events."""
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
        """Settle the common case: events of one room, and nothing else."""
        shared = channel.authors.isdisjoint(subscriber.skip) and not (channel.noisy and subscriber.quiet)
        if shared and start == 0:
            subscriber.ready.append(channel.block(look))
        else:
            block = b"".join([piece for _, piece in _visible(subscriber, channel, look, start)])
            if block:
                subscriber.ready.append(block)
        self._dirty[subscriber] = None


def _about_size(event: Event) -> int:
    """Return about how many bytes a room's event takes. Each line of a run has the name in front."""
    if isinstance(event, Message):
        return sum(map(len, event.texts)) + len(event.texts) * (len(event.name.encode()) + len(": \n"))
    return 64


def _visible(subscriber: _Subscriber[S], channel: _Channel[S], look: _Look, start: int) -> list[tuple[int, bytes]]:
    """Return the items of `channel` from `start` on that the session may see, each with its place in the order."""
    pieces = channel.pieces(look)
    return [
        (item.order, pieces[number])
        for number, item in enumerate(channel.items[start:], start)
        if not subscriber.hides(item.author, item.noise)
    ]
