"""What a disk may hold after a power cut: the model that the campaign ``powercut`` rests on."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from tests.faults.images import MODES, Disk, Image, Mode

ONE, TWO = b"1" * 1024, b"2" * 1024
NEW_FILE: list[list[Any]] = [["open", 1, "x"], ["folder", ""]]


def images(mode: Mode, *events: list[Any], times: int = 300) -> list[Image]:
    """Every image that so many draws give."""
    disk = Disk()
    for event in events:
        disk.happen(event)
    draw = Random(1)
    found: list[Image] = []
    for _ in range(times):
        image = disk.image(mode, draw)
        if image not in found:
            found.append(image)
    return found


@pytest.mark.parametrize("mode", [*MODES, "killed"])
def test_what_was_synced_is_there(mode: Mode) -> None:
    assert images(mode, *NEW_FILE, ["write", 1, 0, ONE], ["sync", 1]) == [{"x": ONE}]


def test_a_process_that_was_killed_leaves_all_it_wrote() -> None:
    events = [["mkdir", "f"], ["open", 1, "f/x"], ["write", 1, 0, ONE], ["truncate", 1, 2]]

    assert images("killed", *events) == [{"f": None, "f/x": b"11"}]


def test_torn_is_a_beginning_of_what_was_written() -> None:
    found = images("torn", *NEW_FILE, ["write", 1, 0, ONE], ["write", 1, 1024, TWO])

    contents = [image["x"] for image in found]
    half, zeros = 512, bytes(512)
    assert {b"", ONE, ONE + TWO, ONE[:half], zeros + ONE[:half]} <= set(contents)
    assert not [one for one in contents if one and b"2" in one and not one.startswith(ONE)]


def test_reordered_is_any_choice_by_sectors() -> None:
    found = images("reordered", *NEW_FILE, ["write", 1, 0, ONE], ["write", 1, 512, TWO])

    contents = {image["x"] for image in found}
    assert {b"", ONE + TWO[:512], ONE[:512] + TWO, bytes(1024) + TWO[:512]} <= contents


def test_a_truncation_that_was_not_synced_may_be_lost() -> None:
    events = [*NEW_FILE, ["write", 1, 0, ONE], ["sync", 1], ["truncate", 1, 0]]

    assert images("strict", *events) == [{"x": ONE}]
    for mode in ("torn", "reordered"):
        assert len(images(mode, *events)) == 2


def test_strict_keeps_the_size_that_was_synced() -> None:
    events = [*NEW_FILE, ["write", 1, 0, ONE], ["sync", 1], ["write", 1, 512, TWO]]

    assert {len(image["x"] or b"") for image in images("strict", *events)} == {1024}
    assert {"x": ONE[:512] + TWO[:512]} in images("strict", *events)


def test_strict_has_no_file_that_no_sync_of_its_folder_covers() -> None:
    events = [["open", 1, "x"], ["write", 1, 0, ONE], ["sync", 1]]

    assert images("strict", *events) == [{}]
    assert images("strict", *events, ["folder", "other"]) == [{}]
    assert images("strict", *events, ["folder", ""]) == [{"x": ONE}]
    assert sorted(images("reordered", *events), key=len) == [{}, {"x": ONE}]


def test_strict_has_no_file_in_a_folder_that_is_not_there() -> None:
    events = [["mkdir", "f"], ["open", 1, "f/x"], ["folder", "f"]]

    assert images("strict", *events) == [{}]
    assert images("strict", *events, ["folder", ""]) == [{"f": None, "f/x": b""}]


def test_strict_brings_a_deleted_file_back_and_not_its_successor() -> None:
    events = [*NEW_FILE, ["write", 1, 0, ONE], ["sync", 1], ["delete", "x"]]
    again = [["open", 2, "x"], ["write", 2, 0, TWO], ["sync", 2]]

    assert images("strict", *events) == [{"x": ONE}]
    assert images("strict", *events, *again) == [{"x": ONE}]
    assert images("strict", *events, *again, ["folder", ""]) == [{"x": TWO}]


def test_a_write_to_a_deleted_file_does_not_reach_its_successor() -> None:
    events = [*NEW_FILE, ["delete", "x"], ["open", 2, "x"], ["folder", ""]]

    assert images("killed", *events, ["write", 1, 0, ONE]) == [{"x": b""}]
