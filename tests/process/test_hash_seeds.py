"""Replicas in processes with different hash seeds agree: nothing that a replica says depends on the order of a set."""

import os
import random
import subprocess
import sys
import typing

from party import NOON

from mpchat.chat.entries import WAITING, Answered, Asked, Entry, Opened, Said, Slowed, encode_entries, make_input
from mpchat.chat.events import (
    Event,
    Mistaken,
    NameAsked,
    NameGiven,
    Negotiated,
    Stalled,
    Stopping,
    Told,
    Welcome,
)
from mpchat.chat.requests import SetRecall
from mpchat.chat.rules.replica import Replica
from mpchat.chat.state.state import Limits
from mpchat.wire.line.commands import COMMANDS, read_command

DIGEST = """
import hashlib, sys
from mpchat.chat.entries import decode_entries
from mpchat.chat.rules.replica import Replica
from mpchat.chat.state.snapshot import SNAPSHOT_VERSION
from mpchat.chat.state.state import Limits
replica = Replica(Limits(archived=True))
effects = [replica.apply(entry, time) for time, entry in enumerate(decode_entries(sys.stdin.buffer.read()))]
print(hashlib.sha256(repr(effects).encode() + replica.dump()).hexdigest())
"""


def compose_scenario(seed: int) -> list[Entry]:
    """Much that happens between a few people who all share rooms, ignore each other and rename themselves."""
    chance = random.Random(seed)
    sids = [bytes([number]) * 16 for number in range(20)]
    words = ["n1", "n2", "n3 hi", "n4 hi", "m1", "m2", "m3", "#a", "#b", "#c", "lobby", ""]
    log: list[Entry] = [Opened(sid, "127.0.0.1") for sid in sids]
    log += [Said(sid, 1, (f"n{number}",)) for number, sid in enumerate(sids)]
    log.append(Asked(sids[0], 2, SetRecall(False)))
    log += [Slowed(sid, 1, WAITING, 10.0) for sid in sids[::2]]
    for end in range(2, 2000):
        command = chance.choice([*COMMANDS, *(each for each in COMMANDS if each.name in ("join", "ignore", "nick"))])
        if command.name != "quit" or end % 10 == 0:
            request = read_command(f"/{command.name} {chance.choice(words)}")
            log.append(make_input(chance.choice(sids), end, request))
        log.append(Said(chance.choice(sids), end, ("hello",)))
        log.append(Answered(chance.choice(sids), chance.randrange(1, 4), (("lobby", end, "n1", False, "hello"),)))
    return log


def digest_with(hash_seed: str, payload: bytes) -> bytes:
    return subprocess.run(
        [sys.executable, "-c", DIGEST],
        input=payload,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        timeout=60,
        check=True,
    ).stdout


def test_replicas_in_processes_with_other_hash_seeds_agree() -> None:
    scenario, replica = compose_scenario(seed=7), Replica(Limits(archived=True))
    effects = [effect for entry in scenario for effect in replica.apply(entry, NOON)]
    happened = {type(effect.event) for effect in effects if isinstance(effect, Told)}
    never = {*typing.get_args(Event)} - happened
    assert never <= {Welcome, NameAsked, NameGiven, Negotiated, Mistaken, Stopping, Stalled}
    payload = encode_entries(scenario)
    assert digest_with("1", payload) == digest_with("2", payload)
