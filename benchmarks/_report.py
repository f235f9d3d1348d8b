"""What every benchmark reports: rows for people, and one JSON object for programs."""

from __future__ import annotations

import argparse
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


def milliseconds(values: Sequence[float], share: float) -> float | None:
    """The value, given in seconds, below which this share lies; None if there are none."""
    return round(percentile(values, share) * 1000, 3) if values else None


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
        return f"{value:,.0f}" if value >= 100 else f"{value:.2f}" if value >= 1 else f"{value:.3f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def listing(ratios: dict[str, float]) -> str:
    """The ratios, for people."""
    width = max((len(name) for name in ratios), default=0)
    return "\n".join(f"{name:{width}}  {_cell(float(ratio))}" for name, ratio in ratios.items())


def conditions(folder: str | None, start: float) -> str:
    """On what and for how long it was measured; ``start`` is a time of ``perf_counter``."""
    disk = fsync_milliseconds(folder or tempfile.gettempdir())
    took = time.perf_counter() - start
    # Above 1 or so on few CPUs, others were at work and the figures are not to be relied on.
    load = f"load {os.getloadavg()[0]:.1f}; " if hasattr(os, "getloadavg") else ""
    return f"{machine()}; {load}one fsync {disk} ms; {took:.0f} s in all"


def options(bench: str, description: str | None) -> argparse.ArgumentParser:
    """The command line that the benchmarks of the store share."""
    parser = argparse.ArgumentParser(
        f"python -m benchmarks.{bench}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--quick", action="store_true", help="a few seconds, to see that it runs")
    parser.add_argument("--folder", help="where the databases are made; on the disk in question")
    return parser


def positive(text: str) -> float:
    """An argument that is a number above zero."""
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError("must be above zero")
    return value


def times(text: str) -> int:
    """An argument that says how often."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def as_json(bench: str, ratios: dict[str, float], rows: Sequence[dict[str, Any]]) -> str:
    """The one object that ``--json`` prints; ratios to four digits, however small they are."""
    rounded = {key: float(f"{value:.4g}") for key, value in ratios.items()}
    return json.dumps({"bench": bench, "ratios": rounded, "rows": list(rows)})
