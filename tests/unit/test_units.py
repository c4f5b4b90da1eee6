"""Sizes, times and shares: what is accepted, what is refused, and how they are printed."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commbench.units import (
    MAX_BYTES,
    format_bytes,
    format_time,
    parse_bandwidth,
    parse_bytes,
    parse_share,
    parse_time,
)


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [
        (8, 8),
        ("8", 8),
        ("8B", 8),
        ("1K", 1000),
        ("1KB", 1000),
        ("1k", 1000),
        ("1KiB", 1024),
        ("64 KiB", 65536),
        ("1G", 10**9),
        ("1GiB", 2**30),
        ("0.5KiB", 512),
        ("0.07K", 70),  # 70.00000000000001 in floats
        (".5K", 500),
        ("1125899906842623", MAX_BYTES - 1),
        ("1024TiB", MAX_BYTES),
    ],
)
def test_sizes(text: str | int, nbytes: int) -> None:
    assert parse_bytes(text) == nbytes


@pytest.mark.parametrize(
    "text",
    [
        -5,
        0,
        "0",
        "1e400",
        "",
        "B",
        "1.5",
        "0.1KiB",
        "1025TiB",
        "8 8",
        "5 Mi B",
        True,
        "nan",
        "9" * 400,
        "9" * 5000,
        "\u0663",
        "1Ki\nB",
        "0x10",
    ],
)
def test_what_is_not_a_size(text: str | int) -> None:
    with pytest.raises(ValueError, match=r"is not a size|is outside 1 B|not a whole number"):
        parse_bytes(text)


@settings(deadline=None)
@given(st.integers(1, MAX_BYTES))
def test_printed_sizes_are_exact(nbytes: int) -> None:
    assert parse_bytes(format_bytes(nbytes)) == nbytes


def test_printed_sizes_are_short() -> None:
    assert [format_bytes(n) for n in (0, 8, 1000, 1024, 1536, 3 * 2**20, 2**33)] == [
        "0B",
        "8B",
        "1000B",
        "1KiB",
        "1536B",
        "3MiB",
        "8GiB",
    ]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("5s", 5.0), ("200ms", 0.2), ("2m", 120.0), ("2min", 120.0), ("1.5h", 5400.0), ("7 us", 7e-6)],
)
def test_times(text: str, seconds: float) -> None:
    assert parse_time(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", [5, 5.0, "5", "5S", "-5s", "1e3s", "s", True, "nan", "9" * 400 + "s"])
def test_a_time_needs_its_unit(text: str | float) -> None:
    with pytest.raises(ValueError, match=r"write 5s, 200ms, 2m"):
        parse_time(text)


def test_bandwidths() -> None:
    assert parse_bandwidth("10GB/s") == 10e9
    for text in ("10Gb/s", "10Gbit/s", "10", "10GiB/s", True):
        with pytest.raises(ValueError, match="bytes, not bits"):
            parse_bandwidth(text)


def test_shares() -> None:
    assert parse_share("2%") == parse_share(0.02) == parse_share("0.02") == 0.02
    for text in ("0", 0, "0%", "100%", 1, 2, "-1%", True, "nan", "1e-3", ""):
        with pytest.raises(ValueError, match=r"share|between 0 and 100 %"):
            parse_share(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 ns"),
        (312e-9, "312 ns"),
        (999.9e-9, "1 us"),
        (999.9e-6, "1 ms"),
        (4.211e-3, "4.21 ms"),
        (0.9996, "1 s"),
        (12.34, "12.3 s"),
        (119.7, "2 min 00 s"),
        (125, "2 min 05 s"),
        (179.6, "3 min 00 s"),
        (7325.2, "122 min 05 s"),
    ],
)
def test_printed_times(seconds: float, text: str) -> None:
    assert format_time(seconds) == text


@settings(deadline=None)
@given(st.floats(1e-9, 1e6))
def test_printed_times_are_never_in_powers_of_ten(seconds: float) -> None:
    assert "e" not in format_time(seconds)
