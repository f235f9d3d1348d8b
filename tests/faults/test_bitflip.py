"""The campaign ``bitflip`` in short, and proof that it can find something."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import apsw
import pytest

from asynchistory import codec
from tests.faults import bitflip
from tests.faults.bitflip import SAMPLE, Bench, Flip
from tests.faults.report import Report


def test_bitflip_in_short() -> None:
    report = bitflip.campaign(400)

    assert not report.found, report.messages
    names = ("body", "id", "ts", "crc")
    assert all(report.counts[f"{name}, in the file"] > 0 for name in names)
    assert all(report.counts[f"{name}, by UPDATE"] > 0 for name in ("type", *names[1:]))
    assert sum(report.counts.values()) == 400 + report.counts["bits that a sample has"]


@pytest.fixture
def bench(memory: Path) -> Bench:
    return Bench(memory)


def test_each_bit_of_each_victim_is_in_the_sample_once(bench: Bench) -> None:
    assert bench.flips.keys() == SAMPLE.keys()
    with closing(apsw.Connection(str(bench.path))) as connection:
        lengths = dict(
            connection.execute(
                "SELECT s.id, length(CAST(r.body AS BLOB)) FROM records r JOIN sessions s "
                "USING(sid) WHERE r.seq = 3"
            )
        )
    for session_id, found in bench.flips.items():
        assert len(set(found)) == len(found)
        bodies = {(flip.offset, flip.bit) for flip in found if flip.column == "body"}
        assert len(bodies) == 8 * lengths[session_id]
        assert {flip.column for flip in found} == {"type", "ts", "id", "body", "crc"}


@pytest.mark.parametrize("column", ["type", "ts", "id", "body", "crc"])
def test_a_flip_changes_one_bit_of_the_column_that_it_names(bench: Bench, column: str) -> None:
    for flip in [flip for flip in bench.flips["unicode"] if flip.column == column][::7]:
        bench.path.write_bytes(bench.image)
        before = row(bench.path, flip)
        bitflip.apply(bench.path, [flip])
        after = row(bench.path, flip)

        assert [name for name in before if before[name] != after[name]] == [column]


def row(path: Path, flip: Flip) -> dict[str, object]:
    with closing(apsw.Connection(str(path))) as connection:
        cursor = connection.execute(
            "SELECT seq, type, ts, id, CAST(body AS BLOB) AS body, crc FROM records "
            "WHERE rowid = ?",
            (flip.rowid,),
        )
        names = [name for name, _ in cursor.get_description()]
        return dict(zip(names, cursor.fetchall()[0], strict=True))


# -- the judgement


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_sound_record_that_should_be_damaged_is_unreported(bench: Bench, backend: str) -> None:
    report = Report("bitflip", 1)
    flip = bench.flips["message"][0]

    # Flipped there and back.
    bench.flip(report, [flip, flip], backend)

    # Three levels of each of two reads, and the strict one.
    assert report.findings == {"unreported": 7}


def test_damage_to_another_record_is_an_error(bench: Bench) -> None:
    report = Report("bitflip", 1)
    bench.image = bench.image.replace(b"text 4", b"text 5")

    bench.flip(report, [bench.flips["cost"][0]], "trio")

    assert report.findings == {"errors": 6}


def test_a_file_that_does_not_open_is_found(bench: Bench) -> None:
    report = Report("bitflip", 1)
    bench.image = bytes(100) + bench.image[100:]

    bench.flip(report, [bench.flips["cost"][0]], "asyncio")

    assert report.findings == {"unopenable": 1}


def test_a_codec_without_checksums_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "crc32", lambda data, start=0: 7)

    report = bitflip.campaign(200)

    assert report.unreported > 100
