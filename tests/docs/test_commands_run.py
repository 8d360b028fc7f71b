"""The commands of the pages, run in the order in which a sample walks through them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from urllib.request import urlopen

import pytest

from launcher.cli import build_parser, main
from launcher.commands.usage import commands
from tests.conftest import ROOT
from tests.dataloaders.s3_server import BUCKET, S3

from .not_run import NOT_RUN, NotRun, reason
from .pages import PAGES, Shown, shown_commands
from .workspace import environment, make_workspace

ORDER = [name.split()[0] for name, _ in commands(build_parser())]
# What stands on a page for what a reader has: here it is this, as whole words.
STANDS_FOR = {
    "--annotations F": "--annotations nextqa/val.csv",
    "--predictions F": "--predictions results/HGA-bert-ft-h256-val.json",
    "--data SHARDS|URL": "--data runs/demo/shards/train",
    "--storage DIR": "--storage storage",
    "--gpu": "",  # in brackets there, and no GPU is here
    "--only CHECK,...": "--only disk,data",
    "SHARDS...": "runs/demo/shards/train runs/demo/shards/val",
    "SHARDS": "runs/demo/shards/train",
    "RUN": "runs/demo/grounding",
    "OUT": "repaired",
    "diff 500 650": "diff 4 8",
    "model.llm.name=...": "model.llm.name=Qwen/Qwen3-14B",
    "s3://bucket/runs/exp1": f"s3://{BUCKET}/runs/exp1",
    ".venv/bin/python": sys.executable,
    "gcg demo-ui": "gcg demo-ui --port 0",
}
DIFFERS = 1
SHOWN = [each for page in PAGES for each in shown_commands(page) if each.whole]


def here(shown: Shown) -> list[str]:
    """The command's words with what they stand for; every page has a run file of its own."""
    words = [word.replace("sha256:...", f"sha256:{'0' * 64}") for word in shown.words]
    for given, real in {**STANDS_FOR, "run.yaml": f"{shown.page.stem}.yaml"}.items():
        told = given.split()
        for at in reversed(range(len(words))):
            if words[at : at + len(told)] == told:
                words[at : at + len(told)] = real.split()
    return words


def stage(shown: Shown) -> tuple[int, bool]:
    """Packed before trained before asked, checked before done; scripts, which do all, last."""
    ours = shown.words[0] == "gcg"
    return ORDER.index(shown.words[1]) if ours else len(ORDER), "--dry-run" not in shown.words


TO_RUN = sorted((each for each in SHOWN if reason(each) is None), key=stage)
TO_RUN = [*{tuple(here(each)): each for each in TO_RUN}.values()]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, s3: S3) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("pages")
    make_workspace(folder)
    s3.upload(folder / "runs" / "demo" / "grounding", "runs/exp1")
    before = Path.cwd()
    os.chdir(folder)
    yield folder
    os.chdir(before)


def process(words: list[str], place: Path) -> int:
    """One of its own: what trains, and what is not ours; of the checkout in the checkout."""
    folder = ROOT if "pytest" in words else place
    return subprocess.run(words, cwd=folder, env=environment(place), timeout=500).returncode


def served(words: list[str], place: Path) -> int:
    """Started, asked for its page, ended by Ctrl-C."""
    with subprocess.Popen(
        words, cwd=place, env=environment(place), stdout=subprocess.PIPE, text=True
    ) as running:
        try:
            assert running.stdout is not None
            url = running.stdout.readline().split()[0]
            assert b"Ask about a clip" in urlopen(url, timeout=60).read()
        finally:
            running.send_signal(signal.SIGINT)
        return running.wait(60)


@pytest.mark.slow
@pytest.mark.timeout(600)  # the first one makes the folder: three trainings
@pytest.mark.parametrize("shown", TO_RUN, ids=str)
def test_it_does_what_the_page_says(shown: Shown, place: Path) -> None:
    words = here(shown)
    match words:
        case ["gcg", "demo-ui", *_]:
            code = served(words, place)
        case ["gcg", name, *_] if name != "train":
            code = main(words[1:])
        case _:
            code = process(words, place)
    assert code == (DIFFERS if "diff" in words else 0)
    for option, value in pairwise(words):
        if option in ("--out", "--to", "--strip", "--clip", "--write-spans", "--repair"):
            assert (place / value).exists(), option


def test_the_rest_has_a_reason_that_holds() -> None:
    for each in NOT_RUN:
        assert any(each.covers(shown) for shown in SHOWN), f"{each.pattern}: on no page any more"
        if each.test:
            assert each.says in (ROOT / each.test).read_text(), f"{each.test}: {each.pattern}"
    shown = {word for each in SHOWN for word in each.words}
    assert {"RUN", "OUT", "SHARDS...", "F", "SHARDS|URL"} <= shown
    assert len(TO_RUN) >= 45


def test_a_pattern_covers_its_words_alone() -> None:
    shown = Shown(ROOT / "README.md", ("gcg", "jobs", "--json"), whole=True)
    assert NotRun("gcg jobs *", "").covers(shown)
    assert not NotRun("gcg jobs", "").covers(shown)
    assert here(Shown(ROOT / "docs" / "data.md", ("gcg", "inspect", "SHARDS"), True)) == [
        "gcg", "inspect", "runs/demo/shards/train",
    ]  # fmt: skip
