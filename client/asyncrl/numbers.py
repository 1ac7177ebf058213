"""Numbers as people read them: short, of one width, absent ones as a hyphen."""

from __future__ import annotations

import math

ABSENT = "-"


def count(value: float | None) -> str:
    """A count in three or four characters: 950, 1.2k, 430k, 1.5M."""
    if value is None or not math.isfinite(value):
        return ABSENT
    for divisor, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        # From 999.5 on, rounding reaches the next unit.
        if abs(value) >= divisor * 0.9995:
            scaled = value / divisor
            return f"{scaled:.0f}{unit}" if abs(scaled) >= 99.95 else f"{scaled:.1f}{unit}"
    return f"{value:.0f}"


def number(value: float | None) -> str:
    """A measured number with about four digits."""
    if value is None:
        return ABSENT
    if value == 0:
        return "0"
    if not 1e-3 <= abs(value) < 1e6:
        return f"{value:.2e}"
    digits = max(0, min(4, 3 - math.floor(math.log10(abs(value)))))
    text = f"{value:.{digits}f}"
    return text.rstrip("0").rstrip(".") if digits else text


def signed(value: float | None) -> str:
    """A cosine: +0.08."""
    return ABSENT if value is None else f"{value:+.2f}"


def whole(value: float | None) -> str:
    """A staleness: whole versions where they are whole, else one digit."""
    if value is None:
        return ABSENT
    return f"{value:.0f}" if float(value).is_integer() else f"{value:.1f}"


def duration(seconds: float) -> str:
    """A time span: 12.3s, 4:05, 1:02:03, 3d 04h."""
    return f"{seconds:.1f}s" if seconds < 60 else clock(seconds)


def clock(seconds: float) -> str:
    """A time span in whole seconds: 0:12, 4:05, 1:02:03, 3d 04h."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 24:
        return f"{hours // 24}d {hours % 24:02d}h"
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def roughly(seconds: float) -> str:
    """A time span, no more exact than an estimate is: 40 s, 12 min, 3.5 h."""
    if seconds < 10:
        return "a few seconds"
    if seconds < 90:
        return f"{round(seconds / 5) * 5} s"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} min"
    if seconds < 36 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.1f} days"
