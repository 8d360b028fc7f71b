"""Where a checkpoint lies: a local folder, or a hub name that is brought to one.

What is in the local cache is used without asking the network. ``HF_HOME`` and ``HF_HUB_OFFLINE``
are respected; of a repository only what is needed is downloaded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from huggingface_hub import constants, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)

from gcg.errors import ModelError
from gcg.weights.files import HUGGING_FACE, read_index

# Configurations, tokenizers, shard indexes.
METADATA = ("*.json", "*.txt", "*.model", "*.jinja")
HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w.-]+")


def local_place(setting: str, name: str) -> Path | None:
    """The file or folder that ``name`` is, or None where it is a hub name.

    Raises:
        ModelError: it is neither.
    """
    try:
        place = Path(name).expanduser()
        if place.exists():
            return place
    except (OSError, RuntimeError):  # a name too long for a file; ~ of a user who is not there
        pass
    if HUB_NAME.fullmatch(name):
        return None
    raise ModelError(
        f"{setting} = {name}: no such file or folder, and no hub name (owner/name); give one"
    )


def known_file(setting: str, name: str, file: str) -> Path | None:
    """A repository's file where it is on this machine already; asks no network."""
    place = local_place(setting, name)
    if place is not None:
        found = (place if place.is_dir() else place.parent) / file
        return found if found.is_file() else None
    cached = try_to_load_from_cache(name, file)
    return Path(cached) if isinstance(cached, str) else None


def fetch_file(setting: str, name: str, file: str) -> Path:
    """A repository's file, from this machine or else from the hub."""
    known = known_file(setting, name, file)
    if known is not None:
        return known
    # Not by hf_hub_download: without a network that tries for half a minute.
    return fetch(setting, name, kinds=(), needs=(file,)) / file


def fetch(
    setting: str,
    name: str,
    kinds: Sequence[str] = HUGGING_FACE,
    needs: Sequence[str] = (),
    wanted: Callable[[str], bool] = lambda key: True,
) -> Path:
    """The local folder (or file) of a checkpoint with its weights, configuration, tokenizers.

    Args:
        setting: the configuration's field that says ``name``, for messages.
        name: a file, a folder or a hub name.
        kinds: names of weight files; the first that the repository has is taken. None: no weights.
        needs: files that must be there besides.
        wanted: which tensors; shards that hold none of them are not downloaded.

    Raises:
        ModelError: it is not on this machine, and why it cannot be had; or something is missing.
    """
    place = local_place(setting, name)
    if place is not None:
        missing = [file for file in needs if place.is_dir() and not (place / file).is_file()]
        if missing:
            raise ModelError(f"{setting} = {name}: holds no {missing[0]}; give the whole folder")
        return place
    try:
        folder = Path(snapshot_download(name, local_files_only=True))
        if _complete(folder, kinds, needs, wanted):
            return folder
    except (LocalEntryNotFoundError, HFValidationError):
        pass
    return _download(setting, name, kinds, needs, wanted)


def _download(
    setting: str,
    name: str,
    kinds: Sequence[str],
    needs: Sequence[str],
    wanted: Callable[[str], bool],
) -> Path:
    def snapshot(patterns: Sequence[str]) -> Path:
        return Path(
            _asking(setting, name, lambda: snapshot_download(name, allow_patterns=[*patterns]))
        )

    folder = snapshot(METADATA)
    if _complete(folder, kinds, needs, wanted):
        return folder
    for kind in kinds:
        folder = snapshot([*METADATA, *(_shards(folder, kind, wanted) or [kind])])
        if _complete(folder, [kind], needs, wanted):
            return folder
    # Without a network the library returns whatever is in the cache, without an error.
    missing = [file for file in needs if not (folder / file).is_file()] or [" or ".join(kinds)]
    raise ModelError(
        f"{setting} = {name}: {missing[0]} is neither in {folder} nor on the hub"
        f"{_offline()}; {_remedy(name)}"
    )


def _complete(
    folder: Path, kinds: Sequence[str], needs: Sequence[str], wanted: Callable[[str], bool]
) -> bool:
    if not all((folder / file).is_file() for file in needs):
        return False
    if not kinds:
        return True
    for kind in kinds:
        if (folder / kind).is_file():
            return True
        shards = _shards(folder, kind, wanted)
        if shards and all((folder / shard).is_file() for shard in shards):
            return True
    return False


def _shards(folder: Path, kind: str, wanted: Callable[[str], bool]) -> list[str]:
    index = folder / f"{kind}.index.json"
    if not index.is_file():
        return []
    return sorted({shard for key, shard in read_index(index).items() if wanted(key)})


def _asking(setting: str, name: str, ask: Callable[[], str]) -> str:
    try:
        return ask()
    except GatedRepoError:
        reason = "its owner gives access on request; ask on its page, then `hf auth login`"
        raise ModelError(f"{setting} = {name}: {reason}, or give a folder") from None
    except RepositoryNotFoundError:
        reason = "no such repository on the hub, or a private one; check the name, or log in"
        raise ModelError(f"{setting} = {name}: {reason}") from None
    except (HfHubHTTPError, OSError, ValueError) as error:
        cause = error.__cause__ or error
        why = _offline() or f" ({type(cause).__name__})"
        raise ModelError(
            f"{setting} = {name}: not in the cache {constants.HF_HUB_CACHE}, and the hub cannot be "
            f"reached{why}; {_remedy(name)}"
        ) from None


def _offline() -> str:
    return " (HF_HUB_OFFLINE is set)" if constants.HF_HUB_OFFLINE else ""


def _remedy(name: str) -> str:
    return (
        f"run `hf download {name}` on a machine with a network and give the folder here, "
        "or set HF_HOME to a cache that has it"
    )
