"""Names of MLPerf's scenarios, apart from what drives them, so that a command line can list them at once."""

from __future__ import annotations

from typing import Literal

Scenario = Literal["SingleStream", "MultiStream", "Server", "Offline"]
SCENARIOS: tuple[Scenario, ...] = ("SingleStream", "MultiStream", "Server", "Offline")
