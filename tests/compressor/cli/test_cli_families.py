"""`lathe families`: every family, what it covers, and a yes or no for every exporter."""

from __future__ import annotations

import json

from compress_command import lathe

from compressor.export import exporters
from compressor.families import families


def test_the_list_is_complete() -> None:
    shown = lathe("families", "--json")
    assert shown.exit_code == 0, shown.output
    rows = {row["family"]: row for row in json.loads(shown.stdout)["families"]}
    assert list(rows) == families.known()
    for name, row in rows.items():
        assert row["models"] == families.get(name).covers
        assert list(row["exporters"]) == exporters.known()
    assert all(rows["llama"]["exporters"].values())


def test_the_table_names_every_family() -> None:
    shown = lathe("families")
    assert all(name in shown.stdout for name in families.known())
