"""Capacity: how many clients, and how long lines, there is room for, whatever the configuration asks for.

Owns the limit on open files, and how large the ledger is made. Promises that what does not fit is said in the log, with
how far it goes. Two things have room: descriptors, as many as the system allows (they may become more while the server
runs: prlimit(1)); and the ledger, which is laid out once and handed down from one program to the next (USR2).
"""

import logging
import resource
from dataclasses import replace

from mpchat.config import Config
from mpchat.server.ledger import Shape, ring_size

log = logging.getLogger(__name__)

SPARE_DESCRIPTORS = 128
"""Descriptors that main needs beside those of clients: pipes and sentinels of workers, old and new ones at a time."""

SLOTS = 512
"""The most workers at a time, those that retire included: twice as many as can be configured."""

ROOM = 65_536
"""Clients that the ledger has room for, even if fewer are configured: as many as HUP may ask for later. Room is
addresses, not memory: those of a page are backed once a client has had it."""


def raise_descriptor_limit() -> int | None:
    """Allow ourselves as many open files as the system lets us; give how many that is, None for any number."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
        except (OSError, ValueError) as error:
            log.warning("the limit on open files stays at %d: %s", soft, error)
    return None if soft == resource.RLIM_INFINITY else soft


def plan_shape(config: Config) -> Shape:
    """What the ledger of a new server is to have room for."""
    clients = config.max_clients
    if resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY:  # else addresses are dear
        clients = max(clients, ROOM)
    descriptors = raise_descriptor_limit()
    if descriptors is not None:
        clients = min(clients, _enough_for(descriptors, config.workers))
    return Shape(clients, SLOTS, ring_size(config.max_line))


def fit(config: Config, shape: Shape) -> Config:
    """`config`, as far as there is room for it in a ledger of this shape and in what the system allows now."""
    return _fit_lines(_fit_clients(config, shape), shape)


def _fit_clients(config: Config, shape: Shape) -> Config:
    wanted = config.max_clients
    descriptors = raise_descriptor_limit()
    enough = wanted if descriptors is None else _enough_for(descriptors, config.workers)
    if enough < wanted and enough <= shape.pages:
        log.warning(
            "the system allows %d open files: that is enough for %d clients, not for %d", descriptors, enough, wanted
        )
    elif shape.pages < wanted:
        log.warning("there is room for %d clients since the server was started, not for %d", shape.pages, wanted)
    return replace(config, max_clients=min(enough, shape.pages, wanted))


def _fit_lines(config: Config, shape: Shape) -> Config:
    if ring_size(config.max_line) <= shape.ring:
        return config
    log.warning("max_line stays within %d, what the program before has made room for", shape.ring // 4)
    return replace(config, max_line=shape.ring // 4)


def _enough_for(descriptors: int, workers: int) -> int:
    """How many clients so many descriptors are enough for."""
    return max(1, descriptors - SPARE_DESCRIPTORS - 4 * workers)
