"""Where a run lies: a folder of a file system, or a URL of an object store, used by the same paths.

A folder is a :class:`pathlib.Path`, a URL a ``UPath``, which has the same methods; so the rest of
the launcher asks only here what differs: an object appears whole or not at all, cannot be appended
to, and costs a request to look at. A request that fails is made again for a minute or more by the
client itself. Credentials are found as the service's own tools find them.
"""

from __future__ import annotations

import functools
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

from dataloaders.errors import StorageError
from dataloaders.location import is_url
from dataloaders.storage.remote import protocol_of

# What can be created only if it is not there, so that attempts can be told apart.
WRITABLE = ("s3", "gs")
# With the client's waits of up to 20 s between: an outage of half a minute is outlived.
_TRIES = 12
_SILENCE_S = 60.0
# Whose errors are the service's or the network's, besides OSError.
_CLIENTS = ("botocore", "aiobotocore", "s3fs", "aiohttp", "gcsfs", "google")


def run_place(location: str | os.PathLike[str]) -> Path:
    """The folder of a run, or of runs; ``location`` is a path or a URL.

    Raises:
        StorageError: a URL whose file system is not installed.
    """
    if isinstance(location, Path) or is_remote(location) or not is_url(location):
        return cast("Path", location) if is_remote(location) else Path(location)
    url = os.fspath(location)
    settings = _settings(url)
    from upath import UPath

    return cast("Path", UPath(url, **settings))


def is_remote(place: object) -> bool:
    """Whether a place is an object store's."""
    return hasattr(place, "protocol") and hasattr(place, "fs")


@functools.cache
def _settings(url: str) -> dict[str, Any]:
    from dataloaders.storage.options import StorageOptions
    from dataloaders.storage.remote import file_system

    file_system(url, StorageOptions())  # says what is missing
    if find_spec("upath") is None:
        raise StorageError(
            f"{url}: runs cannot be kept there without universal_pathlib; install it: pip install "
            f"'gcg-train[{'s3' if protocol_of(url) == 's3' else 'gcs'}]'"
        )
    if protocol_of(url) != "s3":
        return {"use_listings_cache": False}
    return {
        "use_listings_cache": False,
        "config_kwargs": {
            "retries": {"mode": "standard", "total_max_attempts": _TRIES},
            "connect_timeout": _SILENCE_S,
            "read_timeout": _SILENCE_S,
        },
    }


def refused(error: BaseException) -> str | None:
    """What the storage said, in words, if it was the storage that failed; None for other errors."""
    if isinstance(error, OSError):
        return " ".join((error.strerror or str(error)).split())
    if type(error).__module__.partition(".")[0] in _CLIENTS:
        return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
    return None


def fault_of(action: Callable[[], object]) -> str | None:
    """What the storage said in words, if it refused what ``action`` does; else None. Any other
    error is raised."""
    try:
        action()
    except Exception as error:
        why = refused(error)
        if why is None:
            raise
        return why
    return None


def names_in(folder: Path) -> list[str]:
    """What lies directly in a folder; nothing where there is none.

    Raises:
        OSError: an object store did not answer. Of that it must not follow that nothing is there.
    """
    try:
        return [path.name for path in folder.iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError:
        if is_remote(folder):
            raise
        return []


def sizes_below(folder: Path) -> dict[str, int]:
    """Bytes of every file below a folder, by its path relative to that; one listing."""
    if not is_remote(folder):
        sizes: dict[str, int] = {}
        for path in folder.rglob("*"):
            with suppress(FileNotFoundError):  # deleted while one looks, by a run that goes on
                if path.is_file():
                    sizes[str(path.relative_to(folder))] = path.stat().st_size
        return sizes
    remote = cast("Any", folder)
    root = remote.path.rstrip("/") + "/"
    found: dict[str, dict[str, Any]] = remote.fs.find(root, detail=True)
    return {name.removeprefix(root): int(info["size"]) for name, info in found.items()}


def create(path: Path, text: str) -> bool:
    """Write a file that only one process can; False where it is there already."""
    try:
        if is_remote(path):
            remote = cast("Any", path)
            remote.fs.pipe_file(remote.path, text.encode(), mode="create")
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
    except FileExistsError:
        return False
    return True


def make_folder(folder: Path) -> None:
    """Make a folder; an object store needs none."""
    if not is_remote(folder):
        folder.mkdir(parents=True, exist_ok=True)


def remove_tree(folder: Path) -> None:
    """Delete a folder with all in it, as far as that is possible."""
    if not is_remote(folder):
        shutil.rmtree(folder, ignore_errors=True)
        return
    remote = cast("Any", folder)
    fault_of(lambda: remote.fs.rm(remote.path, recursive=True))


def working_place(place: Path) -> Path:
    """Where this machine's processes keep what belongs to a place in an object store.

    Below ``TMPDIR``, the same for all processes of a user.
    """
    remote = cast("Any", place)
    root = Path(tempfile.gettempdir()) / f"gcg-runs-{os.getuid()}"
    return root / remote.protocol / remote.path.strip("/")


def upload(file: Path, target: Path) -> None:
    """Copy a file of this machine to a place; there it appears whole."""
    if is_remote(target):
        remote = cast("Any", target)
        remote.fs.put_file(str(file), remote.path)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)


def download(source: Path, file: Path) -> None:
    """Copy a file of an object store to this machine, where it appears whole."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.{os.getpid()}.partial")
    remote = cast("Any", source)
    try:
        remote.fs.get_file(remote.path, str(partial))
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)
