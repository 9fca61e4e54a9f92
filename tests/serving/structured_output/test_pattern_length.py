from __future__ import annotations

import pytest

from lathe.serving.structured_output.pattern_length import least_length


@pytest.mark.parametrize(
    ("pattern", "least", "most"),
    [
        ("", 0, 0),
        ("abc", 3, 3),
        ("^a{1000}$", 1000, 1000),
        ("a{1000}?", 1000, 1000),
        ("a{3,}b", 4, 4),
        ("a{0,1000000}", 0, 0),
        ("(ab){500}c", 1001, 1001),
        ("((a{10}){10}){10}", 1000, 1000),
        ("(a{10}|b{20}){2}", 40, 60),
        ("(?:a|b)*", 0, 6),
        (r"\p{L}{7}\d{2}", 9, 9),
        (r"[a-z]]{3}", 4, 4),
        (r"[\]{4}]{5}", 5, 5),
        (r"\(a{3}\)", 5, 5),
        ("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", 36, 36),
        ("a{99999999999999999999}", 10**9, 10**9),
        ("(" * 3000 + "a" + "){9}" * 3000, 9**3000, 9**3000),
        ("a)b{2}", 3, 4),
        ("(a{5", 3, 3),
    ],
)
def test_no_match_needs_more_and_hardly_less(pattern: str, least: int, most: int) -> None:
    assert least <= least_length(pattern) <= most
