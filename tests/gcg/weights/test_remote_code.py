"""A model's folder may bring Python files and ask for them to be run: they are not."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from gcg.description_llm import find_writer, load_writer
from gcg.errors import ModelError
from gcg.part_configs import llm_config, sentence_config

CODE = """
from pathlib import Path
Path({mark!r}).touch()
from transformers import PretrainedConfig
class EvilConfig(PretrainedConfig):
    model_type = "evil"
"""


@pytest.mark.parametrize(
    "read",
    [llm_config, sentence_config, lambda name: load_writer(find_writer(name))],
    ids=["llm", "text encoder", "writer"],
)
def test_code_beside_weights_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Callable[[str], object]
) -> None:
    folder, mark = tmp_path / "model", tmp_path / "ran"
    folder.mkdir()
    (folder / "evil.py").write_text(CODE.format(mark=str(mark)))
    wanted = {"AutoConfig": "evil.EvilConfig", "AutoTokenizer": [None, "evil.EvilConfig"]}
    (folder / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": wanted}))
    # transformers would ask whether to run it, and someone may have a habit of saying yes.
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 9))
    with pytest.raises(ModelError):
        read(str(folder))
    assert not mark.exists()
