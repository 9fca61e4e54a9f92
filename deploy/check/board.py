"""The Grafana board, read by Grafana's own generated types: what they do not know would be lost."""

from __future__ import annotations

import json
from typing import Any

from deploy.check import expressions
from deploy.check.report import Row


def check() -> list[Row]:
    board = expressions.board()
    lost = _lost(board, _through_grafana(board))
    queries = sum(len(panel["targets"]) for panel in expressions.panels())
    control = _lost(broken := board | {"refersh": "10s"}, _through_grafana(broken))
    if not control:
        lost = [*lost, "a misspelt field of the board is not noticed"]
    result = f"{len(expressions.panels())} panels, {queries} queries; a misspelt field is noticed"
    return [Row("board through grafana-foundation-sdk", result, lost)]


def _through_grafana(board: dict[str, Any]) -> Any:
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.models.dashboard import Dashboard

    return json.loads(JSONEncoder().encode(Dashboard.from_json(board)))


def _lost(given: Any, back: Any, path: str = "$") -> list[str]:
    """What is in `given` and not, or not the same, in `back`."""
    if isinstance(given, dict) and isinstance(back, dict):
        missing = [f"{path}.{key} is not known to Grafana" for key in given.keys() - back.keys()]
        pairs = {f"{path}.{key}": (given[key], back[key]) for key in given.keys() & back.keys()}
        return missing + [found for place, pair in pairs.items() for found in _lost(*pair, place)]
    if isinstance(given, list) and isinstance(back, list) and len(given) == len(back):
        several = enumerate(zip(given, back, strict=True))
        return [found for index, pair in several for found in _lost(*pair, f"{path}[{index}]")]
    return [] if given == back else [f"{path} is read as {back!r}"]
