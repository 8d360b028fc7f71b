"""`gcg push`: an exported folder to the Hugging Face hub; nothing is sent unless that is asked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gcg.config import GCGConfig
from gcg.errors import ModelError
from gcg.saved import read_saved
from gcg.weights.hub import HUB_NAME, local_place
from launcher.errors import UserError


@dataclass(frozen=True)
class Push:
    """What would go where: ``files``, by path relative to ``folder``, with their bytes."""

    folder: Path
    repository: str
    files: dict[str, int]


def plan_push(folder: Path, repository: str) -> Push:
    """Look at what would be sent; asks no network.

    Raises:
        UserError: it is no exported model, the repository's name is none, or others could not load
            the model because a frozen part lies on this machine alone.
    """
    problems = []
    if not HUB_NAME.fullmatch(repository):
        problems.append(f"{repository}: no name of a repository; give OWNER/NAME")
    if not folder.is_dir():
        problems.append(f"{folder}: no such folder; give what `gcg export RUN --to DIR` wrote")
    if problems:
        raise UserError(problems)
    saved = read_saved(folder)
    if saved.parts == "trained" and (lines := list(_private_places(saved.config))):
        raise UserError(lines)
    files = {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(part.startswith(".") for part in path.parts)
    }
    return Push(folder, repository, files)


def push(found: Push, *, private: bool = False) -> str:
    """Make the repository if it is not there, and send the files as one commit; returns its URL.

    The token is found as by Hugging Face's own tools: ``HF_TOKEN``, or ``hf auth login``.

    Raises:
        UserError: the hub refused, or cannot be reached.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi()
    try:
        api.create_repo(found.repository, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=found.repository,
            folder_path=found.folder,
            allow_patterns=list(found.files),
            commit_message="Upload by gcg push",
        )
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        remedy = {
            401: "log in with `hf auth login`, or set HF_TOKEN",
            403: "your token may not write there; make one that may, or use your own name",
        }.get(status, "try again later")
        raise UserError(
            f"{found.repository}: the hub refused with HTTP {status}; {remedy}"
        ) from None
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"{found.repository}: the hub cannot be reached ({type(error).__name__}); what was "
            "sent is not visible without the last step: run the same command again"
        ) from None
    return f"{constants.ENDPOINT}/{found.repository}"


def _private_places(config: GCGConfig) -> list[str]:
    """A line for each frozen part that only this machine has."""
    named = {"model.llm.name": None if config.llm.train == "full" else config.llm.name}
    if config.preset == "instructblip":
        named |= {
            "model.checkpoint": config.checkpoint,
            "model.clip_checkpoint": config.clip_checkpoint,
        }
    named["model.features.text_encoder"] = config.features.text_encoder
    lines = []
    for setting, name in named.items():
        try:
            place = None if name is None else local_place(setting, name)
        except ModelError:
            place = Path(str(name))
        if place is not None:
            lines.append(
                f"{setting} = {name}: a frozen part that lies on this machine, and nobody else "
                "could load the model; export with --parts all, or train from its hub name"
            )
    return lines
