"""What a job takes along: the code of a folder as Ray would upload it, and the run file.

The files are copied to a folder of their own first. So what is uploaded is what was counted, and a
run file is in it whatever an ignore file says.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import launcher
from launcher.errors import UserError

RUN_FILE = "submitted-run.yaml"
# Far below Ray's 512 MiB: an upload goes through the head's memory to every node.
MAX_BYTES = 50_000_000
_SHOWN = 5

_walk = logging.getLogger(f"{__name__}.walk")  # in which Ray names each ignore file that it reads
_walk.setLevel(logging.CRITICAL)


@dataclass(frozen=True)
class Upload:
    """A folder that holds what a job needs, in files and bytes."""

    folder: Path
    num_files: int
    num_bytes: int

    def __str__(self) -> str:
        files = "the run file alone" if self.num_files == 1 else f"{self.num_files} files"
        return f"{files}, {size(self.num_bytes)}"


def own_checkout() -> Path | None:
    """The checkout that this command runs from; None where it was installed from a wheel."""
    root = Path(launcher.__file__).resolve().parents[1]
    return root if (root / "pyproject.toml").is_file() else None


@contextmanager
def staged(code: Path | None, run_file: str) -> Iterator[Upload]:
    """Gather an upload; its folder is gone afterwards.

    Args:
        code: a folder whose files are taken but for those that its ``.gitignore`` and
            ``.rayignore`` name; None: the code is installed on the cluster.
        run_file: the text of the run file.

    Raises:
        UserError: there is no such folder, or it is too large.
    """
    files = [] if code is None else list(_counted(code))
    with TemporaryDirectory(prefix="gcg-submit-") as name:
        folder = Path(name)
        total = len(run_file.encode())
        for path, inner, num_bytes in files:
            target = folder / inner
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, target)
            total += num_bytes
        (folder / RUN_FILE).write_text(run_file, encoding="utf-8")
        yield Upload(folder, len(files) + 1, total)


def _counted(code: Path) -> Iterator[tuple[Path, Path, int]]:
    """Files to take: where they are, their place in the upload, bytes. Ignore files stay behind."""
    if not code.is_dir():
        raise UserError(f"--working-dir {code}: no such folder; give one, or none")
    try:
        sizes = {path: path.stat().st_size for path in files_of(code)}
    except OSError as error:
        raise UserError(
            f"--working-dir {code}: {error.filename}: {error.strerror}; make it readable, or name "
            f"it in {code / '.rayignore'}"
        ) from None
    total = sum(sizes.values())
    if total > MAX_BYTES:
        largest = sorted(sizes, key=lambda path: -sizes[path])[:_SHOWN]
        named = ", ".join(f"{path.relative_to(code)} ({size(sizes[path])})" for path in largest)
        raise UserError(
            f"--working-dir {code}: {len(sizes)} files, {size(total)}, and an upload may have "
            f"{size(MAX_BYTES)}; the largest are {named}: name what a job does not need in "
            f"{code / '.rayignore'}, or give --working-dir none where the code is installed on "
            "the cluster"
        )
    for path, num_bytes in sizes.items():
        if path.name not in (".gitignore", ".rayignore"):
            yield path, path.relative_to(code), num_bytes


def files_of(code: Path) -> list[Path]:
    """The files that Ray would upload of a folder: by its own walk, with its own rules."""
    from ray._private.ray_constants import get_runtime_env_default_excludes
    from ray._private.runtime_env.packaging import _dir_travel, _get_excludes

    found: list[Path] = []

    def note(path: Path) -> None:
        if path.is_file():
            found.append(path)

    excludes = [_get_excludes(code, get_runtime_env_default_excludes())]
    _dir_travel(code.absolute(), excludes, note, include_gitignore=True, logger=_walk)
    return sorted(Path(code, path.relative_to(code.absolute())) for path in found)


def size(count: float) -> str:
    """Bytes for a reader."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"
