"""Small byte-level tokenizers in the layout of the public ones: they read any text."""

from __future__ import annotations

from typing import Literal

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

LLM = Literal["t5", "llama", "qwen2", "qwen3"]

SENTENCES = (
    "Question: what did the boy do after he opened the present? Short answer:",
    "The red circle moves left before the green square turns blue.",
    "Options: (a) jumps (b) sits down (c) walks away (d) waves (e) falls. Answer:",
    "why is the woman holding the dog at the start of the video",
)


def llm_tokenizer(llm: LLM, chat_template: str | None = None) -> PreTrainedTokenizerFast:
    """Byte-level, so that it reads any text. T5 marks a text's end, the others its beginning."""
    if llm == "t5":
        made = _byte_level(["<pad>", "</s>", "<unk>"])
        made.post_processor = processors.TemplateProcessing(
            single="$A </s>", special_tokens=[("</s>", 1)]
        )
        names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    else:
        made = _byte_level(["<unk>", "<s>", "</s>", "<pad>"])
        made.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", 1)]
        )
        names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
        names["bos_token"] = "<s>"
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, **names)
    tokenizer.chat_template = chat_template
    return tokenizer


def bert_tokenizer() -> PreTrainedTokenizerFast:
    """The Q-Former's kind: ``[CLS] text [SEP]``, padded with 0."""
    made = _byte_level(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
    )


def clip_tokenizer() -> PreTrainedTokenizerFast:
    """CLIP's kind: its end mark has the highest id of all, and pads as well."""
    made = _byte_level([])
    made.add_special_tokens(["<|startoftext|>", "<|endoftext|>"])
    start, end = made.token_to_id("<|startoftext|>"), made.token_to_id("<|endoftext|>")
    made.post_processor = processors.TemplateProcessing(
        single="<|startoftext|> $A <|endoftext|>",
        special_tokens=[("<|startoftext|>", start), ("<|endoftext|>", end)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token="<|startoftext|>",
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        unk_token="<|endoftext|>",
    )


def _byte_level(special: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=len(special) + 320,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return tokenizer
