"""Bytes, seconds and percentages: parsed from what people write, printed for people to read.

`1G` is 10**9 bytes and `1GiB` is 2**30; both are accepted and they are never the same thing.
"""

import math
import re
from decimal import Decimal
from fractions import Fraction

_SI = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_IEC = {f"{prefix}I": 1024**power for power, prefix in enumerate(_SI) if prefix}
_BYTES = {**_SI, **_IEC}
_TIMES = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_BANDWIDTHS = {"B/s": 1.0, "KB/s": 1e3, "MB/s": 1e6, "GB/s": 1e9, "TB/s": 1e12}
_BITS = {f"{prefix}bit/s": factor / 8 for prefix, factor in _SI.items()}  # bytes per second
_NUMBER = r"\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*"
MAX_BYTES = 2**50


def parse_bytes(text: str | int) -> int:
    """Bytes from `8`, `8B`, `1K`, `1KB` (1000), `1KiB` (1024), up to `T`. ValueError says why not."""
    match = re.fullmatch(_NUMBER + r"([kKmMgGtT]?i?)[bB]?\s*", str(text))
    if isinstance(text, bool) or not match or match[2].upper() not in _BYTES:
        raise ValueError(f"{text!r} is not a size; write bytes as 8, 64KiB (65536), 64KB (64000), 1GiB")
    # Exact, unlike a float: 0.07K is 70 bytes and not 70.00000000000001.
    exact = Fraction(Decimal(match[1])) * _BYTES[match[2].upper()]
    if not 1 <= exact <= MAX_BYTES:
        raise ValueError(f"{text!r} is outside 1 B to {MAX_BYTES // 2**40} TiB")
    if exact.denominator != 1:
        raise ValueError(f"{text!r} is {float(exact):.6g} bytes, which is not a whole number")
    return int(exact)


def format_bytes(nbytes: int) -> str:
    """The shortest exact form: 4096 is `4KiB`, 1000 is `1000B`."""
    if nbytes % 1024 or not nbytes:
        return f"{nbytes}B"
    unit, prefix = max((unit, prefix) for prefix, unit in _IEC.items() if nbytes % unit == 0)
    return f"{nbytes // unit}{prefix[0]}iB"


def _scaled(text: str | int | float, units: dict[str, float], what: str, examples: str) -> float:
    match = re.fullmatch(_NUMBER + r"([A-Za-z/]+)\s*", str(text))
    if not match or match[2] not in units:
        raise ValueError(f"{text!r} is not {what} with its unit; write {examples}")
    scaled = float(match[1]) * units[match[2]]
    if not math.isfinite(scaled):
        raise ValueError(f"{text!r} is too large; write {examples}")
    return scaled


def parse_time(text: str | int | float) -> float:
    """Seconds from `5s`, `200ms`, `2m`. A bare number is refused: its unit would be a guess."""
    return _scaled(text, _TIMES, "a time", "5s, 200ms, 2m")


def parse_bandwidth(text: str | int | float) -> float:
    """Bytes per second from `10GB/s` (1e9). Bits (Gb/s) are refused."""
    return _scaled(text, _BANDWIDTHS, "a bandwidth", "10GB/s, 125MB/s (bytes, not bits)")


def parse_rate(text: str | int | float) -> float:
    """Bytes per second of a link from `1Gbit/s` (125e6) or `125MB/s`. `Gb/s`, read either way, is refused."""
    return _scaled(text, _BITS | _BANDWIDTHS, "a rate", "1Gbit/s or 125MB/s")


def parse_share(text: str | int | float) -> float:
    """A share from `2%` or `0.02`; strictly between 0 and 1."""
    match = re.fullmatch(_NUMBER + r"(%?)\s*", str(text))
    if isinstance(text, bool) or not match:
        raise ValueError(f"{text!r} is not a share; write 2% or 0.02")
    share = float(match[1]) / (100 if match[2] else 1)
    if not 0 < share < 1:
        raise ValueError(f"{text!r} must lie between 0 and 100 % (both excluded)")
    return share


def format_time(seconds: float) -> str:
    """Three digits and the unit that fits: `312 ns`, `4.21 ms`, `2 min 05 s`."""
    if round(seconds) >= 120:
        return f"{round(seconds) // 60} min {round(seconds) % 60:02d} s"
    digits = float(f"{seconds:.3g}")  # first the digits, then the unit: 999.9 us is 1 ms and not 1e+03 us
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if digits >= scale:
            return f"{digits / scale:.3g} {unit}"
    return f"{digits / 1e-9:.3g} ns"


def format_rate(bytes_per_s: float) -> str:
    """The rate of a link in bits, three digits and the unit that fits: 125e6 bytes per second are `1 Gbit/s`."""
    digits = float(f"{bytes_per_s * 8:.3g}")
    unit = next((unit for unit in reversed(_BITS) if digits >= _BITS[unit] * 8), "bit/s")
    return f"{digits / (_BITS[unit] * 8):g} {unit}"
