"""A folder that a command writes is there when it is whole, and not before."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.errors import UserError
from launcher.storage.new_folder import check_new, check_room, new_folder


def test_it_takes_its_name_at_the_end(tmp_path: Path):
    out = tmp_path / "out"
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "old").write_text("of an attempt that was stopped")
    out.mkdir()  # empty: may be there
    check_new("OUT", out)
    with new_folder("OUT", out) as partial:
        (partial / "file").write_text("x")
        assert list(out.iterdir()) == []
    assert [path.name for path in out.iterdir()] == ["file"]
    assert not partial.exists()


def test_what_goes_wrong_leaves_no_folder_of_that_name(tmp_path: Path):
    with pytest.raises(ZeroDivisionError), new_folder("OUT", tmp_path / "out"):
        raise ZeroDivisionError
    assert not (tmp_path / "out").exists()


def test_a_disk_that_refuses_is_a_line(tmp_path: Path):
    (tmp_path / "file").write_text("x")
    with (
        pytest.raises(UserError, match=r"--to x: cannot be written \(.*irectory.*; make room"),
        new_folder("--to x", tmp_path / "file" / "out"),
    ):
        pass


def test_what_is_there_stays(tmp_path: Path):
    (tmp_path / "file").write_text("x")
    for taken in (tmp_path, tmp_path / "file"):
        with pytest.raises(UserError, match="OUT: is there already; give a new folder"):
            check_new("OUT", taken)


def test_too_little_room_is_told_before(tmp_path: Path):
    check_room("OUT", tmp_path / "a" / "b", 1)
    with pytest.raises(UserError, match=r"OUT: needs 1000000000\.0 GB, .* has .* GB; use another"):
        check_room("OUT", tmp_path / "a" / "b", 10**18)
