"""Text to token ids and back, for the four readers of text: CLIP, Q-Former, LLM prompt and answer.

Each has the tokenizer of its own checkpoint. The ids that stand around every text (begin and end
marks, a chat's turns) are kept apart from the text's own, so that a long text can be cut between
them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib.resources import as_file, files
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerFast

from gcg.chat import chat_frame
from gcg.config import GCGConfig
from gcg.errors import ModelError
from gcg.part_configs import converted
from gcg.presets import Preset, llm_in_checkpoint, resolve_preset
from gcg.text_codes import RoleTokens
from gcg.weights.hub import fetch, local_place
from gcg.weights.llm import gguf_file

CLIP_TOKENIZER = "openai/clip-vit-large-patch14"
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")
_PROBE = "dog"


@dataclass(frozen=True)
class TokenSet:
    """The tokenizers of a model. ``prefix_ids`` go before the soft-prompt tokens, ``end_ids`` end
    an answer; ``words`` turns an answer's ids into text, special tokens left out."""

    clip: RoleTokens
    qformer: RoleTokens
    prompt: RoleTokens
    answer: RoleTokens
    prefix_ids: tuple[int, ...]
    end_ids: tuple[int, ...]
    words: Callable[[Sequence[int]], str]

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """The text of each generated row, up to its first end token."""
        return [self.words(_until(row, self.end_ids)) for row in rows]


def load_tokens(config: GCGConfig) -> TokenSet:
    """The tokenizers of ``config``'s checkpoints, cut to what each part of the model can take.

    Raises:
        ModelError: a tokenizer cannot be had, or does not fit its model or the length allowed.
    """
    preset = resolve_preset(config)
    llm = _llm_tokenizer(config, preset)
    name = config.llm.name or config.checkpoint or config.preset
    frame = _frame(config, preset, llm, name)
    _check(config, preset, llm, frame, name)
    encode = partial(_encode, llm)
    # A chat's assistant begins its answer without a space; so does one whose words carry theirs.
    continues = not preset.llm.is_encoder_decoder and not frame.chat
    glue = " " if continues and not preset.own_llm and _needs_space(llm) else ""
    # Padding is looked up, though never read; some pad tokens were added beyond the embedding.
    pad = llm.pad_token_id
    pad = pad if pad is not None and pad < preset.llm.vocab_size else frame.end
    return TokenSet(
        clip=clip_tokens(config),
        qformer=_role(_qformer_tokenizer(config), preset.qformer.max_position_embeddings),
        prompt=RoleTokens(
            encode, pad, config.llm.max_prompt_tokens, frame.prompt_prefix, frame.prompt_suffix
        ),
        answer=RoleTokens(
            partial(_encode, llm, before=glue),
            pad,
            config.llm.max_answer_tokens,
            suffix=(frame.end,),
        ),
        prefix_ids=frame.prefix_ids,
        end_ids=tuple(dict.fromkeys([frame.end, *_known(llm.eos_token_id)])),
        words=partial(llm.decode, skip_special_tokens=True, clean_up_tokenization_spaces=False),
    )


def clip_tokens(config: GCGConfig) -> RoleTokens:
    """The tokenizer of the text tower; raises as :func:`load_tokens`."""
    text: Any = resolve_preset(config).text
    sentences = config.features.text_encoder
    if sentences is not None:
        return _role(sentence_tokenizer(sentences), text.max_position_embeddings)
    return _role(_clip_tokenizer(config), text.max_position_embeddings)


def load_tokenizers(config: GCGConfig) -> dict[str, Any]:
    """The bare tokenizers, by the folder that `gcg convert` puts each of them into.

    There is none for CLIP where a sentence encoder stands in its place (its own:
    :func:`sentence_tokenizer`).
    """
    found = {
        "": _llm_tokenizer(config, resolve_preset(config)),
        "qformer_tokenizer": _qformer_tokenizer(config),
    }
    if config.features.text_encoder is None:
        found["clip_tokenizer"] = _clip_tokenizer(config)
    return found


def sentence_tokenizer(name: str) -> Any:
    """The bare tokenizer of ``features.text_encoder``; raises as :func:`load_tokens`."""
    return pretrained_tokenizer("model.features.text_encoder", name)


@dataclass(frozen=True)
class _Frame:
    """The constants of an LLM's input: [prefix_ids][soft][prompt_prefix][words][prompt_suffix]."""

    end: int
    prefix_ids: tuple[int, ...] = ()
    prompt_prefix: tuple[int, ...] = ()
    prompt_suffix: tuple[int, ...] = ()
    chat: bool = False


def _frame(config: GCGConfig, preset: Preset, llm: Any, name: str) -> _Frame:
    own_llm, reads_twice = preset.own_llm, preset.llm.is_encoder_decoder
    if not own_llm and not reads_twice and config.llm.chat == "auto" and llm.chat_template:
        chat = chat_frame(llm, name, config.llm.system)
        return _Frame(chat.end, chat.head, prompt_suffix=chat.tail, chat=True)
    if config.llm.system is not None:
        raise ModelError(
            f"model.llm.system = {config.llm.system!r}: {name} is asked without a chat template; "
            "write it into model.llm.prompt instead"
        )
    end = llm.eos_token_id
    if end is None:
        raise ModelError(
            f"model.llm.name = {name}: its tokenizer has no token that ends a text; choose another"
        )
    if config.preset == "tiny" and own_llm:
        # Its tokenizer marks a text for CLIP; T5 marks the end of a text, but not its beginning.
        return _Frame(end, prompt_suffix=(end,))
    begin, finish = special_ids(llm)
    if reads_twice:
        return _Frame(end, prompt_prefix=begin, prompt_suffix=finish)
    if own_llm:
        # InstructBLIP was trained with the begin mark between the soft-prompt tokens and the words.
        return _Frame(end, prompt_prefix=begin)
    return _Frame(end, prefix_ids=begin)


def special_ids(tokenizer: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The ids that a tokenizer puts before and after a text by itself."""
    bare = tokenizer(_PROBE, add_special_tokens=False)["input_ids"]
    full = tokenizer(_PROBE)["input_ids"]
    for start in range(len(full) - len(bare) + 1):
        if full[start : start + len(bare)] == bare:
            return tuple(full[:start]), tuple(full[start + len(bare) :])
    raise ModelError(f"{tokenizer.name_or_path}: its marks change the text they stand around")


def _role(tokenizer: Any, max_length: int) -> RoleTokens:
    prefix, suffix = special_ids(tokenizer)
    pad = tokenizer.pad_token_id
    return RoleTokens(
        partial(_encode, tokenizer), 0 if pad is None else pad, max_length, prefix, suffix
    )


def _encode(tokenizer: Any, texts: list[str], before: str = "") -> list[list[int]]:
    if not texts:
        return []
    texts = [before + text for text in texts]
    return tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]


def _needs_space(llm: Any) -> bool:
    """Whether a word inside a text is another token than the word alone (byte-level BPE)."""
    first, rest, both = _encode(llm, [_PROBE, _PROBE, f"{_PROBE} {_PROBE}"])
    return first + rest != both


def _check(config: GCGConfig, preset: Preset, llm: Any, frame: _Frame, name: str) -> None:
    around = len(frame.prompt_prefix) + len(frame.prompt_suffix)
    options = config.llm
    if options.max_prompt_tokens <= around:
        raise ModelError(
            f"model.llm.max_prompt_tokens = {options.max_prompt_tokens}: {around} tokens stand "
            f"around every prompt of {name}; allow more"
        )
    if options.max_answer_tokens < 2:
        raise ModelError(
            f"model.llm.max_answer_tokens = {options.max_answer_tokens}: an answer is one word and "
            "its end token at least; allow 2 or more"
        )
    largest = max([frame.end, *frame.prefix_ids, *frame.prompt_prefix, *frame.prompt_suffix])
    if max(largest + 1, llm.vocab_size) > preset.llm.vocab_size:
        raise ModelError(
            f"model.llm.name = {name}: its tokenizer has {max(largest + 1, llm.vocab_size)} "
            f"tokens, the LLM {preset.llm.vocab_size}; tokenizer and LLM are not of one model"
        )


def _qformer_tokenizer(config: GCGConfig) -> Any:
    if config.preset == "tiny":
        return tiny_tokenizer()
    assert config.checkpoint is not None  # the configuration asks for it
    return pretrained_tokenizer("model.checkpoint", config.checkpoint, "qformer_tokenizer")


def _clip_tokenizer(config: GCGConfig) -> Any:
    """The CLIP checkpoint's own if it holds one; all CLIP models of this family share it."""
    if config.preset == "tiny":
        return tiny_tokenizer()
    if converted(config.checkpoint) is not None:
        assert config.checkpoint is not None
        return pretrained_tokenizer("model.checkpoint", config.checkpoint, "clip_tokenizer")
    setting = "model.clip_checkpoint"
    try:
        return pretrained_tokenizer(setting, config.clip_checkpoint)
    except ModelError as error:
        try:
            return pretrained_tokenizer(setting, CLIP_TOKENIZER)
        except ModelError:
            raise error from None


def _llm_tokenizer(config: GCGConfig, preset: Preset) -> Any:
    if llm_in_checkpoint(config):
        if config.preset == "tiny":
            return tiny_tokenizer()
        assert config.checkpoint is not None
        return pretrained_tokenizer("model.checkpoint", config.checkpoint)
    assert config.llm.name is not None
    tokenizer = pretrained_tokenizer("model.llm.name", config.llm.name)
    if gguf_file(local_place("model.llm.name", config.llm.name)) is not None:
        # transformers takes a GGUF file's begin mark for its end mark; its configuration is right.
        tokenizer.eos_token_id = preset.llm.eos_token_id
    return tokenizer


@lru_cache(maxsize=8)
def pretrained_tokenizer(setting: str, name: str, subfolder: str = "") -> Any:
    """The tokenizer of a checkpoint: a file, a folder or a hub name that ``setting`` gives.

    Raises:
        ModelError: there is none, or it cannot be read.
    """
    kinds = [f"{subfolder}/{kind}" if subfolder else kind for kind in _TOKENIZER_FILES]
    place = fetch(setting, name, kinds)
    gguf = None if subfolder else gguf_file(place)
    folder = (place if place.is_dir() else place.parent) / subfolder
    options: dict[str, Any] = {} if gguf is None else {"gguf_file": gguf.name, "legacy": True}
    try:
        return AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False, **options)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        why = str(error).strip().split("\n")[0].split(". ")[0].rstrip(".")
        raise ModelError(
            f"{setting} = {name}: no tokenizer can be read from {folder} ({why}); "
            "put the model's tokenizer files there"
        ) from None


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer that ships with preset ``tiny``, one for all readers."""
    with as_file(files("gcg.assets") / "tiny_tokenizer.json") as path:
        return PreTrainedTokenizerFast(
            tokenizer_file=str(path),
            pad_token="<pad>",
            bos_token="<bos>",
            eos_token="<eos>",
            add_prefix_space=True,  # as the file says, which transformers would override
        )


def _known(id: int | None) -> list[int]:
    return [] if id is None else [id]


def _until(row: Sequence[int], ends: Sequence[int]) -> Sequence[int]:
    stop = next((i for i, id in enumerate(row) if id in ends), len(row))
    return row[:stop]
