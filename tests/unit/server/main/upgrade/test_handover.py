"""The handover: the next program reads what the last one left, for any number of listeners and clients."""

from __future__ import annotations

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpchat.errors import ServeError
from mpchat.log.port import Snapshot
from mpchat.server.ledger import Shape
from mpchat.server.main.connection import Held
from mpchat.server.main.upgrade import handover as written
from mpchat.server.main.upgrade.handover import Handover, read_handover
from mpchat.sharedmemory import make_memory

numbers = st.integers(0, 1 << 30)
handovers = st.builds(
    Handover,
    listeners=st.lists(st.tuples(numbers, st.sampled_from(["line", "another"])), max_size=3).map(tuple),
    shape=st.builds(Shape, numbers, numbers, numbers),
    ledger=st.tuples(numbers, numbers),
    snapshot=st.builds(Snapshot, numbers, st.binary(max_size=100)),
    clients=st.dictionaries(
        st.binary(min_size=16, max_size=16),
        st.builds(Held, numbers, st.ip_addresses().map(str), numbers, st.sampled_from(["line", "another"]), numbers),
        max_size=4,
    ),
    workers=numbers,
    workers_configured=numbers,
    address=st.fixed_dictionaries({"host": st.just("::1"), "port": numbers}),
    data=st.none() | st.tuples(st.text(max_size=10), numbers, numbers),
    version=st.text(max_size=10),
    tried=st.text(max_size=10),
)


@given(handovers)
def test_a_handover_is_read_as_it_was_written(handover: Handover) -> None:
    snapshot = make_memory(0, "snapshot")
    written._write(snapshot, handover.snapshot.blob)
    assert written._unpack(json.loads(json.dumps(written._pack(handover, snapshot)))) == handover


@given(handovers)
def test_every_descriptor_is_passed_on(handover: Handover) -> None:
    descriptors = [descriptor for descriptor, _ in handover.listeners]
    lock = [handover.data[1]] if handover.data else []
    clients = [held.descriptor for held in handover.clients.values()]
    assert sorted(handover.descriptors) == sorted([*descriptors, *handover.ledger, *lock, *clients])


@pytest.mark.parametrize("left", [b"", b"[]", b'{"format": "2.1.1"}', json.dumps({"format": written.FORMAT}).encode()])
def test_another_format_is_an_error(left: bytes) -> None:
    descriptor = make_memory(0, "handover")
    written._write(descriptor, left)
    with pytest.raises(ServeError, match="handover"):
        read_handover(descriptor)
    os.close(descriptor)


def test_the_format_with_the_snapshot_of_the_version_before_is_read() -> None:
    entries = written.FORMAT.split(".")[1]
    assert {written.FORMAT, *(f"4.{entries}.{version}" for version in (2, 3, 4))} == written.READABLE
