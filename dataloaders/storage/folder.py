"""The small files of a data set (indexes, labels) at a local path or a URL, read and written."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import unquote, urlsplit

from dataloaders.errors import StorageError
from dataloaders.location import is_url, join
from dataloaders.storage.options import StorageOptions
from dataloaders.storage.remote import (
    file_system,
    is_absent,
    protocol_of,
    read_file,
    storage_error,
)
from dataloaders.storage.retry import BUGS, Stopped, with_retries
from dataloaders.trust import url_fault

T = TypeVar("T")


class Folder(Protocol):
    """Files by name in one place.

    Raises (all methods):
        FileNotFoundError: no such file.
        OSError: a local file system's failure.
        StorageError: a URL that cannot be reached, or not be used like this.
    """

    @property
    def location(self) -> str:
        """The path or URL."""
        ...

    def at(self, name: str) -> str:
        """Where a file is, for messages."""
        ...

    def read(self, name: str) -> bytes: ...

    def write(self, name: str, data: bytes) -> None:
        """Write a file so that a reader sees the old one or the whole new one."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        ...


class LocalFolder:
    def __init__(self, path: Path):
        self.path = path

    @property
    def location(self) -> str:
        return str(self.path)

    def at(self, name: str) -> str:
        return str(self.path / name)

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()

    def write(self, name: str, data: bytes) -> None:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(path.name + ".partial")
        with temporary.open("wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        temporary.replace(path)

    def remove(self, name: str) -> None:
        (self.path / name).unlink(missing_ok=True)


class RemoteFolder:
    """A URL through fsspec; what may pass is tried again."""

    def __init__(self, url: str, options: StorageOptions):
        self.location = url
        self.options = options
        self.system: Any = file_system(url, options)
        self._never = threading.Event()

    def at(self, name: str) -> str:
        return join(self.location, name)

    def read(self, name: str) -> bytes:
        return self._do(name, "read", lambda url: read_file(self.system, url))

    def write(self, name: str, data: bytes) -> None:
        # An object store shows an object once it is whole; there are no folders to be made.
        self._do(name, "written", lambda url: self.system.pipe_file(url, data))

    def remove(self, name: str) -> None:
        with suppress(FileNotFoundError):
            self._do(name, "removed", self.system.rm_file)

    def size(self, name: str) -> int | None:
        """A file's size in bytes as the server states it; None if it does not."""
        return self._do(name, "found", self.system.info).get("size")

    def _do(self, name: str, doing: str, action: Callable[[str], T]) -> T:
        url = self.at(name)
        try:
            return with_retries(lambda: action(url), url, self.options, self._never)
        except NotImplementedError:
            raise StorageError(
                f"{url}: cannot be {doing}: {protocol_of(url)}:// is only for reading; work on a "
                "copy in a folder or a bucket, and upload it"
            ) from None
        except (StorageError, Stopped, *BUGS):
            raise
        except Exception as error:
            if is_absent(error):
                raise FileNotFoundError(f"{url}: nothing there") from None
            raise storage_error(url, doing, error, self.options.retries + 1) from error


def open_folder(
    location: str | os.PathLike[str], options: StorageOptions | None = None
) -> LocalFolder | RemoteFolder:
    """The folder at a path or URL (``file://`` is a path). Nothing is read yet.

    Raises:
        StorageError: no such protocol, or its package is not installed.
    """
    if not is_url(location):
        return LocalFolder(Path(location))
    url = os.fspath(location)
    if protocol_of(url) == "file":
        if fault := url_fault(url):
            raise StorageError(f"{url}: {fault}")
        return LocalFolder(Path(unquote(urlsplit(url).path)))
    return RemoteFolder(url.rstrip("/"), options or StorageOptions())
