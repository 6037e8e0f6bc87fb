"""Which keys a running daemon takes over when it is told to read its configuration again."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from bros.brosd.config.sections import Config, Section

# Sections and keys that change live; all others need a restart.
LIVE = ("slo", "log", "server.max_requests_per_key")


def reloaded(old: Config, new: Config) -> tuple[Config, list[str]]:
    """Return `old` with the live keys of `new`, and the keys that differ but are not live."""
    config = old
    ignored = []
    for key in _keys(new):
        section, _, name = key.rpartition(".")
        before, after = (getattr(at, section) if section else at for at in (config, new))
        if getattr(before, name) == getattr(after, name):
            continue
        if key not in LIVE and section not in LIVE:
            ignored.append(key)
        else:
            changed = msgspec.structs.replace(before, **{name: getattr(after, name)})
            config = msgspec.structs.replace(config, **{section: changed})
    return config, ignored


def _keys(config: Config) -> Iterable[str]:
    for name in config.__struct_fields__:
        section = getattr(config, name)
        if isinstance(section, Section):
            yield from (f"{name}.{key}" for key in section.__struct_fields__)
        else:
            yield name
