"""Reload: what a running server takes of a new configuration.

Owns the rules of it: the options in `config.FIXED` keep their values, and the others are lowered to what there is room
for. Promises to log each option that does not change as asked. Never applies a configuration: the supervisor does.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from mpchat.config import FIXED, Config
from mpchat.errors import ConfigError
from mpchat.server.ledger import Shape
from mpchat.server.main.intake.capacity import fit

log = logging.getLogger(__name__)


def reread(read: Callable[[], Config], current: Config, shape: Shape) -> Config | None:
    """Return the new configuration of a server with a ledger of this shape; None if what is read is invalid."""
    try:
        config = read()
    except ConfigError as error:
        log.error("reload rejected: nothing is changed reason=%s", error)
        return None
    return fit(keep(config, {name: getattr(current, name) for name in FIXED}), shape)


def keep(config: Config, fixed: Mapping[str, Any]) -> Config:
    """Return `config` with the values in `fixed`, which cannot change any more."""
    changed = [name for name, value in fixed.items() if getattr(config, name) != value]
    if changed:
        log.warning("cannot be changed while the server runs options=%s", ",".join(changed))
    return replace(config, **fixed)
