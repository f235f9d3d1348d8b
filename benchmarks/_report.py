"""What every benchmark reports: rows for people, and one JSON object for programs."""

from __future__ import annotations

import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Sequence
from typing import Any


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which this share of the values lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else float("nan")


def spread(values: Sequence[float]) -> dict[str, float]:
    """The median with the least and the most."""
    return {
        "median": round(statistics.median(values), 1),
        "least": round(min(values), 1),
        "most": round(max(values), 1),
    }


def fsync_milliseconds(folder: str, times: int = 50) -> float:
    """What one sync of this disk takes: durable numbers mean nothing without it."""
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        taken = []
        for _ in range(times):
            file.write(b"x" * 4096)
            file.flush()
            start = time.perf_counter()
            os.fsync(file.fileno())
            taken.append(time.perf_counter() - start)
    return round(statistics.median(taken) * 1000, 3)


def machine() -> str:
    """The interpreter and the machine in one line."""
    return (
        f"Python {platform.python_version()}, {platform.system()} {platform.machine()}, "
        f"{os.cpu_count()} CPUs"
    )


def table(rows: Sequence[dict[str, Any]], columns: dict[str, str]) -> str:
    """Rows as text; ``columns`` gives each key its heading. Numbers stand to the right."""
    cells = [list(columns.values())]
    cells += [[_cell(row.get(key)) for key in columns] for row in rows]
    widths = [max(len(line[index]) for line in cells) for index in range(len(columns))]
    numeric = [any(isinstance(row.get(key), (int, float)) for row in rows) for key in columns]
    return "\n".join(
        "  ".join(
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(line, widths, numeric, strict=True)
        ).rstrip()
        for line in cells
    )


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def as_json(bench: str, ratios: dict[str, float], rows: Sequence[dict[str, Any]]) -> str:
    """The one object that ``--json`` prints."""
    rounded = {key: round(value, 3) for key, value in ratios.items()}
    return json.dumps({"bench": bench, "ratios": rounded, "rows": list(rows)})
