"""Run one fault campaign and print what it found.

    python -m tests.faults sigkill --times 30            a table for people
    python -m tests.faults sigkill --times 30 --json     one JSON object

What there is, and what --times counts:

    bitflip      bits of stored records that are flipped
    bridge       rounds of 10,000 synchronous calls and 1,000 failing ones, on each loop
    cancel       cancellations of appends and reads, on each loop
    conversations  conversations at once with a model, on each loop
    crowd        crowds of 10,000 tasks at once, on each loop
    firsttouch   first touches of a factory, of each scene
    forks        processes with connections open that fork, over HTTP and TLS, on each loop
    ioerror      calls to the file system that fail, of each kind in each scene, on each loop
    loops        event loops that use one LLM client one after another, and then no more
    powercut     images of what a disk may hold after its power was cut
    processes    new files that twelve processes open at the same moment
    redis        reads of the cache in Redis that are cancelled, on each loop, beside all else
                 that can happen to Redis
    sigkill      processes that are killed, on each loop
    stale        interleavings of reads and writes, on each loop, in one process and in two

With --store postgres:

    cancel       cancellations of appends and reads, on each loop
    cut          appends whose connection is cut, each tried again with its key, on each loop
    restart      servers that are killed under load and started again, on each loop
    starts       empty databases that twenty processes open at the same moment
    writers      sessions to which eight processes write at once, while one reads

The exit code is 0 if nothing was found, 1 if something was, 2 for wrong usage.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable

from tests.faults import (
    bitflip,
    bridge,
    cancel,
    conversations,
    crowd,
    firsttouch,
    forks,
    ioerror,
    loops,
    powercut,
    processes,
    redis,
    sigkill,
    stale,
)
from tests.faults.report import FINDINGS, Report

CAMPAIGNS: dict[str, Callable[[int], Report]] = {
    "bitflip": bitflip.campaign,
    "bridge": bridge.campaign,
    "cancel": cancel.campaign,
    "conversations": conversations.campaign,
    "crowd": crowd.campaign,
    "firsttouch": firsttouch.campaign,
    "forks": forks.campaign,
    "ioerror": ioerror.campaign,
    "loops": loops.campaign,
    "powercut": powercut.campaign,
    "processes": processes.campaign,
    "redis": redis.campaign,
    "sigkill": sigkill.campaign,
    "stale": stale.campaign,
}


def at_least_one(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m tests.faults",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("--store", choices=("sqlite", "postgres"), default="sqlite")
    parser.add_argument(
        "--times", type=at_least_one, default=30, metavar="N", help="how much of it (default: 30)"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")
    options = parser.parse_args(arguments)
    campaigns = CAMPAIGNS
    if options.store == "postgres":
        from tests.faults import postgres  # late: it needs a driver, and a server

        campaigns = postgres.CAMPAIGNS
    if options.name not in campaigns:
        parser.error(f"no campaign {options.name!r}; there are: {', '.join(sorted(campaigns))}")
    report = campaigns[options.name](options.times)
    print(json.dumps(report.as_dict()) if options.json else table(report))
    return 1 if report.found else 0


def table(report: Report) -> str:
    lines = [
        f"{report.campaign}: {report.times} {report.unit} ({', '.join(report.loops)}), "
        f"{report.seconds:.1f} s",
        f"  {'acknowledged':14}{report.acknowledged:>10}",
        f"  {'stored':14}{report.stored:>10}   with those that nobody was told of",
    ]
    for name in FINDINGS:
        count = getattr(report, name)
        lines.append(f"  {name:14}{count:>10}{'   <---' if count else ''}")
    for figures in (report.counts, report.peaks):
        lines += [f"    {name:<40}{count:>10}" for name, count in sorted(figures.items())]
    return "\n".join([*lines, *(f"  ! {message}" for message in report.messages)])


if __name__ == "__main__":
    sys.exit(main())
