"""Capacity: how many clients and how long lines there is room for. It lowers the configuration to that.

Owns the limit on open files, and the size of the ledger. Promises to log each option that does not fit, and its new
value. Two things limit the clients: the descriptors that the system allows, which may become more while the server
runs (prlimit(1)); and the ledger, which is laid out once and handed from one program to the next (USR2).
"""

import logging
import resource
from dataclasses import replace

from mpchat.config import Config
from mpchat.errors import in_words
from mpchat.server.ledger import Shape, ring_size

log = logging.getLogger(__name__)

SPARE_DESCRIPTORS = 128
"""Descriptors that main needs beside those of clients: for the pipes and sentinels of workers, stale and fresh."""

SLOTS = 512
"""The most workers at a time, including those that retire: twice as many as can be configured."""

ROOM = 65_536
"""Clients that the ledger has room for even if fewer are configured, so that HUP can raise `max_clients`. Room costs
addresses, not memory: a page takes memory once a client has had it."""


def raise_descriptor_limit() -> int | None:
    """Raise the soft limit on open files to the hard one. Return the limit, None for no limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
        except (OSError, ValueError) as error:
            log.warning("limit on open files not raised limit=%d reason=%s", soft, in_words(error))
    return None if soft == resource.RLIM_INFINITY else soft


def plan_shape(config: Config) -> Shape:
    """Return what the ledger of a new server has room for."""
    clients = config.max_clients
    if resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY:  # otherwise addresses are limited
        clients = max(clients, ROOM)
    descriptors = raise_descriptor_limit()
    if descriptors is not None:
        clients = min(clients, _enough_for(descriptors, config.workers))
    return Shape(clients, SLOTS, ring_size(config.max_line))


def fit(config: Config, shape: Shape) -> Config:
    """Return `config`, lowered to what a ledger of this shape has room for and what the system allows now."""
    return _fit_lines(_fit_clients(config, shape), shape)


def _fit_clients(config: Config, shape: Shape) -> Config:
    wanted = config.max_clients
    descriptors = raise_descriptor_limit()
    enough = wanted if descriptors is None else _enough_for(descriptors, config.workers)
    if enough < wanted and enough <= shape.pages:
        log.warning("max_clients lowered wanted=%d to=%d reason=limit of %d open files", wanted, enough, descriptors)
    elif shape.pages < wanted:
        log.warning("max_clients lowered wanted=%d to=%d reason=room made at the first start", wanted, shape.pages)
    return replace(config, max_clients=min(enough, shape.pages, wanted))


def _fit_lines(config: Config, shape: Shape) -> Config:
    if ring_size(config.max_line) <= shape.ring:
        return config
    most = shape.ring // 4
    log.warning("max_line lowered wanted=%d to=%d reason=room made at the first start", config.max_line, most)
    return replace(config, max_line=most)


def _enough_for(descriptors: int, workers: int) -> int:
    """How many clients these descriptors are enough for."""
    return max(1, descriptors - SPARE_DESCRIPTORS - 4 * workers)
