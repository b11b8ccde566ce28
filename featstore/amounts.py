"""Times and sizes as people read them, on terminals and on pages."""

from __future__ import annotations

__all__ = ["brief", "duration", "pace", "size"]


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def pace(per_second: float) -> str:
    """How fast something goes on, `1,240/s`; what takes longer than a second is told by how long each takes."""
    if per_second >= 1:
        return f"{per_second:,.0f}/s"
    return f"{duration(1 / per_second)} each" if per_second else "0/s"


def brief(seconds: float) -> str:
    """The same in a narrow column, `3 min`; a dash for no time at all."""
    if seconds < 120:
        return duration(seconds) if seconds else "–"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def size(count: float) -> str:
    """Bytes in powers of 1,024."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
