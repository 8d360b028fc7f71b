"""`gcg pack --format`, `--from` and `gcg index` from the command line, on good and bad input."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dataloaders.manifest import write_manifest
from dataloaders.open_source import open_source
from launcher.cli import main
from tests.conftest import ROOT
from tests.dataloaders.shard_fixtures import needs_mds, video, write_clips


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    rows = [video(number) for number in range(4)]
    write_clips(tmp_path, rows)
    write_manifest(tmp_path / "rows.jsonl", rows)
    return tmp_path / "rows.jsonl"


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


@needs_mds
def test_both_formats_and_between_them(manifest, tmp_path, capsys):
    assert run("pack", manifest, tmp_path / "wds", "--min-shards", 2) == 0
    assert run("pack", manifest, tmp_path / "mds", "--min-shards", 2, "--format", "mds") == 0
    assert run("pack", tmp_path / "wds", tmp_path / "from-wds", "--from", "wds",
               "--format", "mds") == 0  # fmt: skip
    assert run("pack", tmp_path / "mds", tmp_path / "from-mds", "--from", "mds") == 0
    said = capsys.readouterr().out
    assert f"{tmp_path / 'from-wds'}: converted 4 videos, 8 questions" in said
    for one, two in (("wds", "from-mds"), ("mds", "from-wds")):
        assert open_source(tmp_path / one).fingerprint == open_source(tmp_path / two).fingerprint
    assert run("pack", tmp_path / "mds", tmp_path / "from-mds", "--from", "mds") == 0
    assert "already converted 4 videos" in capsys.readouterr().out


def test_index_of_tars_without_records(manifest, tmp_path, capsys):
    assert run("pack", manifest, tmp_path / "wds") == 0
    for path in tmp_path.glob("wds/*.json*"):
        path.unlink()
    assert run("index", tmp_path / "wds", "--records", manifest, "--threads", 2) == 0
    assert "indexed 4 videos, 8 questions, 1 wds shards" in capsys.readouterr().out
    assert run("index", tmp_path / "wds", "--records", manifest) == 0
    assert "(1 unchanged since last time)" in capsys.readouterr().out


def test_what_is_refused(manifest, tmp_path, capsys):
    assert run("pack", manifest, tmp_path / "wds") == 0
    for arguments, words in (
        (["pack", tmp_path / "wds", tmp_path / "wds", "--from", "wds"], "read and written at once"),
        (["pack", tmp_path / "wds", tmp_path / "x", "--from", "mds"], "use --from wds"),
        (
            ["pack", tmp_path / "wds", tmp_path / "x", "--from", "wds", "--shard-mb", 1],
            "--shard-mb",
        ),
        (["pack", tmp_path / "x", "--from", "wds"], "one data set at a time"),
        (["index", tmp_path / "nowhere"], "no such folder"),
        (["index", "s3://bucket/tars"], "error: s3://bucket/tars: is a URL; `gcg index` reads"),
    ):
        capsys.readouterr()
        assert run(*arguments) == 2
        (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error: ")]
        assert words in line


def test_without_the_library_one_line_says_what_to_install(manifest, tmp_path):
    code = "import sys; sys.modules['streaming'] = None; from launcher.cli import main; "
    code += "sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "pack", manifest, tmp_path / "out", "--format", "mds"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    (line,) = [x for x in done.stderr.splitlines() if "error" in x]
    assert line.startswith("error: MDS shards need the package mosaicml-streaming")
    assert line.endswith("pip install 'gcg-train[mds]'")
    assert "Traceback" not in done.stderr
