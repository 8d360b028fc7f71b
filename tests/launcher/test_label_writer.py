"""Descriptions by a language model in `gcg label`: kept, gone on with, checked, marked."""

from __future__ import annotations

import fcntl
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dataloaders.errors import DataError
from dataloaders.labels import LabelSet
from dataloaders.shard_source import ShardSource
from gcg.config import GCGConfig
from gcg.description import describe
from launcher.errors import UserError
from launcher.labelling.describe import LLMWriter, TemplateWriter, make_writer
from launcher.labelling.label import label_data
from tests.gcg.writers import save_writer
from tests.launcher.conftest import MODEL

CONFIG = GCGConfig(**MODEL)
# Writes the descriptions of argv[2] with the model of argv[1], as `gcg label` does.
WRITE = """
import sys
from pathlib import Path
from dataloaders.shard_source import ShardSource
from launcher.labelling.describe import LLMWriter
data = Path(sys.argv[2])
LLMWriter(sys.argv[1], batch=12).prepare(data, ShardSource(data), lambda count, total: None)
"""


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_writer(tmp_path_factory.mktemp("llm") / "small"))


@pytest.fixture
def data(packed: Path, tmp_path: Path) -> Path:
    """A copy of the validation shards that has no labels and no descriptions."""
    return shutil.copytree(
        packed / "val", tmp_path / "val", ignore=shutil.ignore_patterns("labels", "descriptions")
    )


def prepare(writer: LLMWriter, data: Path) -> list[str]:
    source = ShardSource(data)
    try:
        return writer.prepare(data, source, lambda count, total: None)
    finally:
        source.close()


def kept(data: Path) -> Path:
    (path,) = (data / "descriptions").glob("*.jsonl")
    return path


def questions(data: Path) -> list[tuple[str, str, str]]:
    source = ShardSource(data)
    try:
        return [
            (question.id, question.question, question.answer)
            for number in range(len(source.shards))
            for entry in source.entries(number)
            for question in source.read_record(number, entry).questions
        ]
    finally:
        source.close()


def test_a_killed_run_goes_on_where_it_stopped(packed: Path, llm: str, tmp_path: Path) -> None:
    folders = [
        shutil.copytree(packed / "train", tmp_path / name, ignore=shutil.ignore_patterns("labels"))
        for name in ("killed", "whole")
    ]
    killed, whole = folders
    process = subprocess.Popen([sys.executable, "-c", WRITE, llm, str(killed)])
    try:
        deadline = time.monotonic() + 120
        while not list(killed.glob("descriptions/*")) or not kept(killed).stat().st_size:
            assert process.poll() is None, "it ended before it wrote anything"
            assert time.monotonic() < deadline
            time.sleep(0.002)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    before = kept(killed).read_bytes()
    prepare(LLMWriter(llm, batch=12), whole)
    expected = kept(whole).read_bytes()
    assert 0 < before.count(b"\n") < expected.count(b"\n")
    prepare(LLMWriter(llm, batch=12), killed)
    assert kept(killed).read_bytes() == expected
    assert expected.startswith(before[: before.rfind(b"\n") + 1])


def test_torn_and_damaged_rows_are_written_again(
    data: Path, llm: str, caplog: pytest.LogCaptureFixture
) -> None:
    prepare(LLMWriter(llm, batch=4), data)
    rows = kept(data).read_bytes().splitlines(keepends=True)
    kept(data).write_bytes(b"".join([rows[0], b"{}\n", *rows[2:-1], rows[-1][:20]]))
    prepare(LLMWriter(llm, batch=4), data)
    assert "1 rows cannot be read" in caplog.text
    assert sorted(kept(data).read_bytes().splitlines(keepends=True)) == sorted([*rows, b"{}\n"])


def test_nothing_is_asked_twice(data: Path, llm: str) -> None:
    prepare(LLMWriter(llm), data)
    before = kept(data).read_bytes()
    pairs = {(question, answer) for _, question, answer in questions(data)}
    assert before.count(b"\n") == len(pairs)
    # Were the model asked, it would have to be loaded: its weights are no longer to be read.
    writer = LLMWriter(llm)
    weights = Path(llm) / "model.safetensors"
    hidden = weights.rename(weights.with_name("hidden"))
    try:
        prepare(writer, data)
    finally:
        hidden.rename(weights)
    assert kept(data).read_bytes() == before


def test_another_model_does_not_take_over_what_one_wrote(
    data: Path, llm: str, tmp_path: Path
) -> None:
    prepare(LLMWriter(llm), data)
    prepare(LLMWriter(str(save_writer(tmp_path / "small", seed=1))), data)
    assert len(list((data / "descriptions").glob("*.jsonl"))) == 2


def test_two_processes_do_not_write_at_once(data: Path, llm: str) -> None:
    prepare(LLMWriter(llm), data)
    with kept(data).open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(DataError, match="another process"):
            prepare(LLMWriter(llm), data)


def test_what_is_refused_is_written_by_the_template_and_marked(data: Path, llm: str) -> None:
    made = label_data(data, CONFIG, writer=LLMWriter(llm), name="llm")
    labels = LabelSet(made.folder)
    assert labels.meta.writer.startswith("llm:small@")
    asked = questions(data)
    assert made.count == len(asked)
    by_id = {
        label.question: label
        for path in sorted(Path(made.folder).glob("*.jsonl"))
        for label in labels.for_shard(path.stem).values()
    }
    for key, question, answer in asked:
        assert by_id[key].rejected
        assert by_id[key].description == describe(question, answer)
    total = len({(question, answer) for _, question, answer in asked})
    assert made.lines[0].startswith(f"descriptions: 0 of {total} by the language model")
    assert any(asked[0][1] in line for line in made.lines) or len(made.lines) > 1


def test_what_is_accepted_becomes_the_description(data: Path, llm: str) -> None:
    """With sentences a better model would have written in the file of this one."""
    prepare(LLMWriter(llm), data)
    rows = [json.loads(line) for line in kept(data).read_text().splitlines()]
    for row in rows[1:]:
        row["output"] = f"Here {describe(row['question'], row['answer'])}"
        row["ended"] = True
    kept(data).write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = label_data(data, CONFIG, writer=LLMWriter(llm), name="llm")
    expected = {(row["question"], row["answer"]): row["output"] for row in rows[1:]}
    assert made.lines[0].startswith(f"descriptions: {len(expected)} of {len(rows)}")
    labels, source = LabelSet(made.folder), ShardSource(data)
    for number, shard in enumerate(source.shards):
        for entry in source.entries(number):
            video = source.read_record(number, entry)
            for question in video.questions:
                label = labels.find(shard.stem, video.id, question.id)
                text = expected.get((question.question, question.answer))
                assert (label.rejected is None) == (text is not None)
                if text is not None:
                    assert label.description == text
    source.close()


def test_another_writer_makes_the_labels_again(
    data: Path, llm: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert label_data(data, CONFIG).count > 0
    assert label_data(data, CONFIG).count == 0
    assert label_data(data, CONFIG, writer=LLMWriter(llm)).count > 0
    assert "writer 'template-1', now 'llm:small@" in caplog.text
    assert label_data(data, CONFIG, writer=LLMWriter(llm)).count == 0


def test_writers_by_name(llm: str, tmp_path: Path) -> None:
    assert isinstance(make_writer("template", None), TemplateWriter)
    assert isinstance(make_writer("llm", llm), LLMWriter)
    with pytest.raises(UserError, match="needs --llm"):
        make_writer("llm", None)
    with pytest.raises(UserError, match="add --writer llm"):
        make_writer("template", llm)
    with pytest.raises(UserError, match=r"config\.json"):
        make_writer("llm", str(tmp_path))
