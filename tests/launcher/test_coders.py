"""The tokenizers of each preset, as the collator gets them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, InstructBlipConfig

from gcg.config import GCGConfig
from gcg.errors import ModelError
from gcg.tokens import clip_tokens, load_tokens
from tests.gcg.test_chat import BRACKETS, CHATML
from tests.gcg.weights.checkpoints import (
    LLM,
    Sizes,
    llm_config,
    llm_tokenizer,
    make_instructblip,
    make_open_clip,
)

WORDS = "the red circle moves left before the green square turns blue"
LONG = " ".join([WORDS] * 30)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``t5``, ``llama`` (InstructBLIP) and ``clip`` with small random weights."""
    root = tmp_path_factory.mktemp("checkpoints")
    for llm in ("t5", "llama"):
        make_instructblip(root / llm, llm)
    make_open_clip(root / "clip")
    return root


def instructblip(checkpoints: Path, llm: str, **options: Any) -> GCGConfig:
    return GCGConfig.model_validate(
        {
            "preset": "instructblip",
            "checkpoint": str(checkpoints / llm),
            "clip_checkpoint": str(checkpoints / "clip"),
            "llm": options,
        }
    )


def other_llm(
    folder: Path, llm: LLM = "qwen3", template: str | None = None, **options: Any
) -> GCGConfig:
    """Preset ``tiny`` with a language model of its own, of which only the configuration exists."""
    folder.mkdir()
    llm_config(llm, Sizes()).save_pretrained(folder)
    tokenizer = llm_tokenizer(llm, template)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.save_pretrained(folder)
    return GCGConfig.model_validate({"llm": {"name": str(folder), **options}})


def test_tiny_reads_with_one_tokenizer_and_marks_as_each_part_expects() -> None:
    coders = load_tokens(GCGConfig())
    (read,) = coders.clip.rows([WORDS])
    assert coders.qformer.rows([WORDS]) == [read]
    assert (read[0], read[-1]) == (1, 3)
    assert coders.prompt.rows([WORDS]) == coders.answer.rows([WORDS]) == [read[1:]]
    assert coders.decode([[*read[1:], 0, 0], read[1:4]])[0].strip() == WORDS
    assert len(coders.clip.rows([LONG])[0]) == 64
    assert load_tokens(GCGConfig()).prefix_ids == ()


def test_an_encoder_decoder_reads_the_prompt_to_its_end_mark(checkpoints: Path) -> None:
    config = instructblip(checkpoints, "t5", max_prompt_tokens=20)
    tokens = coders = load_tokens(config)
    assert tokens.prefix_ids == ()
    assert tokens.end_ids == (1,)
    tokenizer = AutoTokenizer.from_pretrained(checkpoints / "t5")
    assert coders.prompt.rows(["a dog"]) == [tokenizer("a dog")["input_ids"]]
    (cut,) = coders.prompt.rows([LONG])
    assert (len(cut), cut[-1]) == (20, 1)


def test_instructblips_decoder_reads_its_begin_mark_after_the_soft_tokens(
    checkpoints: Path,
) -> None:
    config = instructblip(checkpoints, "llama")
    tokens = coders = load_tokens(config)
    assert tokens.prefix_ids == ()
    (prompt,), (answer,) = coders.prompt.rows(["dog"]), coders.answer.rows(["dog"])
    assert (prompt[0], answer[-1]) == (1, 2)
    assert prompt[1:] == answer[:-1]


def test_qformer_and_clip_have_tokenizers_of_their_own(checkpoints: Path) -> None:
    config = instructblip(checkpoints, "t5")
    coders = load_tokens(config)
    bert = AutoTokenizer.from_pretrained(checkpoints / "t5" / "qformer_tokenizer")
    clip = AutoTokenizer.from_pretrained(checkpoints / "clip")
    assert coders.qformer.rows([WORDS]) == [bert(WORDS)["input_ids"]]
    assert coders.clip.rows([WORDS]) == [clip(WORDS)["input_ids"]]
    assert clip_tokens(config).rows([WORDS]) == coders.clip.rows([WORDS])


def test_another_decoder_without_a_template_begins_with_its_mark(tmp_path: Path) -> None:
    config = other_llm(tmp_path / "llm")
    tokens = coders = load_tokens(config)
    assert tokens.prefix_ids == (1,)
    (prompt,), (answer,) = coders.prompt.rows(["a dog"]), coders.answer.rows(["a dog"])
    assert answer[-1] == 2
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "llm")
    whole = tokenizer("Answer: a dog", add_special_tokens=False)["input_ids"]
    # Byte-level: a word inside a text carries its space, one that begins a text does not.
    assert whole[-len(answer) + 1 :] == answer[:-1]
    assert coders.decode([answer])[0].strip() == "a dog"
    assert prompt == tokenizer("a dog", add_special_tokens=False)["input_ids"]


def test_a_chat_model_is_asked_in_its_template(tmp_path: Path) -> None:
    config = other_llm(tmp_path / "llm", template=CHATML, max_prompt_tokens=40)
    tokens = coders = load_tokens(config)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "llm")
    (prompt,), (answer,) = coders.prompt.rows(["a dog"]), coders.answer.rows(["a dog"])
    whole = tokenizer.apply_chat_template(
        [{"role": "user", "content": "a dog"}], add_generation_prompt=True, enable_thinking=False
    )
    assert [*tokens.prefix_ids, *prompt] == whole
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert answer == [*tokenizer("a dog", add_special_tokens=False)["input_ids"], end]
    assert tokens.end_ids == (end, tokenizer.eos_token_id)
    assert coders.decode([[*answer, *answer], [*answer[:-1], 2, 9]]) == ["a dog", "a dog"]
    (cut,) = coders.prompt.rows([LONG])
    assert len(cut) == 40
    assert cut[-len(coders.prompt.suffix) :] == prompt[-len(coders.prompt.suffix) :]


def test_chat_can_be_left_out(tmp_path: Path) -> None:
    asked = other_llm(tmp_path / "llm", template=CHATML, chat="never")
    assert load_tokens(asked).prefix_ids == (1,)


@pytest.mark.parametrize(
    ("template", "options", "message"),
    [
        (BRACKETS, {"system": "Be brief."}, r"chat template of .*system=null"),
        (None, {"system": "Be brief."}, r"without a chat template; write it into .*prompt"),
        (CHATML, {"max_prompt_tokens": 8}, r"max_prompt_tokens = 8: \d+ tokens stand around"),
        (None, {"max_answer_tokens": 1}, r"max_answer_tokens = 1: .*allow 2 or more"),
    ],
)
def test_options_that_do_not_fit(
    tmp_path: Path, template: str | None, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        load_tokens(other_llm(tmp_path / "llm", template=template, **options))


def test_a_tokenizer_of_another_model_is_noticed(tmp_path: Path) -> None:
    config = other_llm(tmp_path / "llm")
    llm_config("qwen3", Sizes(vocabulary=50)).save_pretrained(tmp_path / "llm")
    with pytest.raises(ModelError, match=r"tokens, the LLM 50; .*not of one model"):
        load_tokens(config)


def test_a_folder_without_a_tokenizer(tmp_path: Path) -> None:
    llm_config("llama", Sizes()).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"model\.llm\.name = .*: no tokenizer can be read"):
        load_tokens(GCGConfig.model_validate({"llm": {"name": str(tmp_path)}}))


def test_real_vocabularies(shared: Path, tmp_path: Path) -> None:
    """T5, BERT and CLIP at their real sizes, in the places InstructBLIP keeps them in."""
    real = shared / "tokenizers"
    checkpoint, clip = tmp_path / "instructblip", tmp_path / "clip"
    InstructBlipConfig(
        qformer_config={"vocab_size": 30523}, text_config={"model_type": "t5", "vocab_size": 32128}
    ).save_pretrained(checkpoint)
    for file in (real / "t5").iterdir():
        (checkpoint / file.name).symlink_to(file)
    (checkpoint / "qformer_tokenizer").symlink_to(real / "bert-uncased")
    clip.symlink_to(real / "clip")
    coders = load_tokens(instructblip(tmp_path, "instructblip"))
    (clip_row,), (bert_row,) = coders.clip.rows([LONG]), coders.qformer.rows(["A dog."])
    assert len(clip_row) == 77
    assert (clip_row[0], clip_row[-1]) == (49406, 49407)
    assert clip_row == AutoTokenizer.from_pretrained(clip)(LONG, truncation=True)["input_ids"]
    assert bert_row == [101, 1037, 3899, 1012, 102]
    (prompt,) = coders.prompt.rows(["Question: what is it? Short answer:"])
    assert prompt[-1] == 1
    (answer,) = coders.answer.rows(["a dog"])
    assert answer == [3, 9, 1782, 1]
    assert coders.decode([[0, *answer, 0, 0]]) == ["a dog"]
