"""How `pytest -n` deals tests to its processes."""

from __future__ import annotations

from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from servers import group_of


class GroupScheduling(LoadScopeScheduling):  # type: ignore[misc]
    """Gives each process whole groups, in the order of `put_in_order`."""

    def __init__(self, config: pytest.Config, log: Any) -> None:
        config.option.loadscopereorder = False
        super().__init__(config, log)

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)
