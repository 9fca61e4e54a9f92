"""What a test shows of a family, for the table that `make families-table` makes of a run's JUnit file.

Every conftest.py above such tests imports `shows`.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

Near = Callable[[float], float]
"""Notes a difference from the reference, and gives it back."""
Shows = Callable[[str, str], Near]


@pytest.fixture
def shows(record_property: Callable[[str, object], None]) -> Shows:
    """(exporter, case) -> what takes the difference.

    A case's name begins with its family's. To be called before anything can fail.
    """

    def show(exporter: str, case: str) -> Near:
        record_property("exporter", exporter)
        record_property("case", case)

        def near(difference: float) -> float:
            record_property("difference", difference)
            return difference

        return near

    return show
