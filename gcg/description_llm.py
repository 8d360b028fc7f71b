"""Event descriptions by an instruct language model (step 2): finding, loading and asking it.

Any causal language model of the Hugging Face auto classes will do, from the hub or from a folder,
as GGUF file too. Decoding is greedy: the same weights write the same sentences.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gcg.description_check import Written
from gcg.description_prompt import PROMPT_VERSION, chat_messages, plain_prompt, render
from gcg.errors import ModelError

MAX_NEW_TOKENS = 64
_PATTERNS = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "*.gguf", "*.bin")
_SENTINEL = {"role": "assistant", "content": "TheSentenceGoesHere7"}


@dataclass(frozen=True)
class WriterFiles:
    """Where a language model lies: ``folder``, and the GGUF file in it if it is one.

    ``identity`` names model, weights and prompt: the same identity writes the same sentences.
    """

    folder: Path
    gguf: str | None
    identity: str


def find_writer(name: str) -> WriterFiles:
    """Find a language model: a folder, a GGUF file, or a name on the hub (its cache first).

    A folder's identity is the hash of its files, a hub model's the commit. Loads nothing.

    Raises:
        ModelError: there is none, or the hub cannot be reached.
    """
    place = Path(name).expanduser()
    if place.suffix == ".gguf" and place.is_file():
        return WriterFiles(place.parent, place.name, _identity(place.stem, [place]))
    if not place.is_dir():
        folder = _download(name)
        return WriterFiles(folder, None, f"{name}@{folder.name[:12]}:{PROMPT_VERSION}")
    ggufs = sorted(place.glob("*.gguf"))
    if (place / "config.json").is_file():
        files = sorted({path for pattern in _PATTERNS for path in place.glob(pattern)})
        return WriterFiles(place, None, _identity(place.resolve().name, files))
    if len(ggufs) != 1:
        raise ModelError(
            f"--llm {name}: the folder has no config.json and {len(ggufs)} GGUF files; name a "
            "folder of `save_pretrained`, or one .gguf file"
        )
    return WriterFiles(place, ggufs[0].name, _identity(ggufs[0].stem, ggufs))


def load_writer(files: WriterFiles) -> DescriptionModel:
    """Load a language model: onto the GPU in its own precision if there is one, else in float32.

    Raises:
        ModelError: its files cannot be loaded, or it is no causal language model.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    gpu = torch.cuda.is_available()
    source: dict[str, Any] = {"trust_remote_code": False}
    if files.gguf:
        source["gguf_file"] = files.gguf
    try:
        config = AutoConfig.from_pretrained(files.folder, **source)
        if config.is_encoder_decoder:
            raise ModelError(
                f"--llm {files.folder}: {config.model_type} reads with an encoder; descriptions "
                "are written by a causal model, such as Qwen/Qwen2.5-7B-Instruct"
            )
        tokenizer = AutoTokenizer.from_pretrained(files.folder, **source)
        model: Any = AutoModelForCausalLM.from_pretrained(
            files.folder, dtype="auto" if gpu else torch.float32, **source
        )
        return DescriptionModel(model.to("cuda" if gpu else "cpu"), tokenizer)
    except ModelError:
        raise
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelError(
            f"--llm {files.folder}: cannot be loaded as a causal language model "
            f"({str(error).splitlines()[0]}); name another one"
        ) from None


class DescriptionModel:
    """A loaded language model that turns questions and answers into sentences.

    Args:
        model: a causal language model.
        tokenizer: its tokenizer.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        from transformers import GenerationConfig

        self._model, self._tokenizer = model.eval(), tokenizer
        self._chat = bool(getattr(tokenizer, "chat_template", None))
        self._stop = _stop_ids(model, tokenizer, self._chat)
        # The checkpoint's own settings (sampling, penalties) would make the text depend on luck.
        model.generation_config = GenerationConfig(
            do_sample=False,
            max_new_tokens=MAX_NEW_TOKENS,
            eos_token_id=self._stop,
            pad_token_id=self._stop[0],
        )
        self._prefix: tuple[tuple[int, ...], Any] = ((), None)

    @torch.no_grad()
    def write(self, pairs: Sequence[tuple[str, str]]) -> list[Written]:
        """One text for each (question, answer), greedily decoded, in one batch."""
        rows = [self._prompt(question, answer) for question, answer in pairs]
        shared, cache = self._shared(rows)
        ids_PL, mask_PL = self._laid_out(rows, shared)
        device = self._model.device
        if cache is not None:
            cache = copy.deepcopy(cache)
            cache.batch_repeat_interleave(len(rows))
        made = self._model.generate(
            input_ids=ids_PL.to(device), attention_mask=mask_PL.to(device), past_key_values=cache
        )
        return [self._cut(row) for row in made[:, ids_PL.shape[1] :].tolist()]

    def _prompt(self, question: str, answer: str) -> list[int]:
        if not self._chat:
            return self._tokenizer(plain_prompt(question, answer))["input_ids"]
        text = render(self._tokenizer, chat_messages(question, answer), add_generation_prompt=True)
        # The template writes the begin mark itself.
        return self._tokenizer(text, add_special_tokens=False)["input_ids"]

    def _shared(self, rows: list[list[int]]) -> tuple[int, Any]:
        """How many first tokens the rows have in common with the examples, and their cache: the
        examples are most of every prompt, and are read once, not once a question."""
        from transformers import DynamicCache

        if not self._prefix[0]:
            one, other = self._prompt("why", "so"), self._prompt("how many", "three")
            common = tuple(one[: _common(one, other)])
            cache = DynamicCache(config=self._model.config) if common else None
            if cache is not None:
                ids = torch.tensor([common], device=self._model.device)
                self._model(input_ids=ids, past_key_values=cache, use_cache=True)
            self._prefix = common, cache
        known, cache = self._prefix
        length = min(_common(list(known), row) for row in rows)
        if cache is None or length < len(known) or any(len(row) == length for row in rows):
            return 0, None
        return length, cache

    def _laid_out(self, rows: list[list[int]], shared: int) -> tuple[Tensor, Tensor]:
        """[shared][pads][rest] of each row and its mask (P, L): texts end at the same column."""
        longest = max(map(len, rows))
        ids = torch.full((len(rows), longest), self._stop[0])
        mask = torch.zeros_like(ids)
        for place, row in enumerate(rows):
            rest = longest - (len(row) - shared)
            ids[place, :shared], ids[place, rest:] = _ids(row[:shared]), _ids(row[shared:])
            mask[place, :shared] = mask[place, rest:] = 1
        return ids, mask

    def _cut(self, row: list[int]) -> Written:
        end = next((i for i, token in enumerate(row) if token in self._stop), None)
        text = self._tokenizer.decode(row[:end], skip_special_tokens=True)
        if self._chat or "\n" not in text.strip():
            return Written(text, end is not None)
        # Without a chat template a line's end is the end mark: the examples are laid out so.
        return Written(text.strip().partition("\n")[0], True)


def _stop_ids(model: Any, tokenizer: Any, chat: bool) -> list[int]:
    """Every token that ends a text: the model's, the tokenizer's, the chat turn's own."""
    known = [getattr(model.generation_config, "eos_token_id", None), model.config.eos_token_id]
    found = [token for ids in known for token in (ids if isinstance(ids, list) else [ids])]
    found.append(tokenizer.eos_token_id)
    if chat:
        rendered = render(tokenizer, [*chat_messages("q", "a"), _SENTINEL])
        rest = rendered.rpartition(_SENTINEL["content"])[2].strip()
        ids = tokenizer(rest, add_special_tokens=False)["input_ids"]
        found += [token for token in ids[:1] if token in tokenizer.added_tokens_decoder]
    stops = [token for token in dict.fromkeys(found) if token is not None]
    if not stops:
        raise ValueError("its tokenizer has no token that ends a text; choose another model")
    return stops


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    length = min(len(one), len(other))
    return next((i for i in range(length) if one[i] != other[i]), length)


def _ids(tokens: Sequence[int]) -> Tensor:
    return torch.tensor(tokens, dtype=torch.int64)


def _identity(name: str, files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return f"{name}@{digest.hexdigest()[:12]}:{PROMPT_VERSION}"


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        # Weights in one format are enough; .bin is left out.
        return Path(snapshot_download(name, allow_patterns=list(_PATTERNS[:5])))
    except (HFValidationError, LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise ModelError(
            f"--llm {name}: no such folder, and not to be had from the hub "
            f"({str(error).splitlines()[0]}); check the name, or give a folder that holds the model"
        ) from None
