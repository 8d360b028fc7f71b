"""A URL's file system through fsspec, and its failures in a line a user can act on.

Credentials are found as each service's own tools find them: environment, profile, role.
"""

from __future__ import annotations

import errno
import functools
import importlib
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dataloaders.errors import DeniedError, StorageError
from dataloaders.storage.options import StorageOptions
from dataloaders.storage.retry import forbidden, http_status, may_pass
from dataloaders.trust import redacted, url_fault

_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "http": "http", "https": "http"}
_CREDENTIALS = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE or a role (a public "
    "bucket: FSSPEC_S3_ANON=true; another server: AWS_ENDPOINT_URL)",
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS or run `gcloud auth application-default login` (a "
    "public bucket: FSSPEC_GS_TOKEN=anon)",
    "hf": "set HF_TOKEN or run `hf auth login`, and accept the data set's terms",
    "http": "write `machine HOST login USER password PASSWORD` into ~/.netrc, or a file that NETRC "
    "names",
}
# How a file is read to its end where ``get_file`` will not do. gcsfs's has six tries of its own,
# and removes its target after them, with the lock that the cache holds on it; hf's asks for 5 MB
# at a time.
_STREAMED: dict[str, dict[str, Any]] = {
    "gs": {"cache_type": "none"},  # a request for each chunk
    "hf": {"block_size": 0},  # which is one request, without listing the folder before
}
_CHUNK = 2**23  # bytes
_ZONAL = "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"  # gcsfs's own switch


def protocol_of(url: str) -> str:
    return url.partition("://")[0].lower()


def _service(url: str) -> str:
    """The protocol by its first name."""
    return {"s3a": "s3", "gcs": "gs", "https": "http"}.get(protocol_of(url), protocol_of(url))


def file_system(url: str, options: StorageOptions) -> Any:
    """The fsspec file system for a URL; its methods take the URL itself.

    Raises:
        StorageError: no such protocol, its package is not installed, or the URL holds a secret.
    """
    protocol = protocol_of(url)
    if fault := url_fault(url):
        raise StorageError(f"{url}: {fault}")
    try:
        make = _file_system_class(protocol)
        settings = _settings(url, options)
    except StorageError:
        raise
    except (ImportError, ValueError) as error:
        extra = _EXTRAS.get(protocol)
        remedy = (
            f"install it: pip install 'gcg-train[{extra}]'"
            if extra
            else "use a local path, s3://, gs://, hf://, http:// or https://"
        )
        raise StorageError(f"{url}: {protocol}:// cannot be read ({error}); {remedy}") from None
    try:
        system: Any = make(**settings)
    except Exception as error:  # whatever a client makes of a file of credentials that is none
        remedy = _CREDENTIALS.get(_service(url), "check the service's settings")
        raise StorageError(f"{url}: cannot be read: {_text(error)}; {remedy}") from None
    if protocol in ("s3", "s3a"):
        for library in ("botocore", "aiobotocore"):  # which credentials were found, on every start
            logging.getLogger(library).setLevel(logging.WARNING)
        system.retries = 1  # of requests: ours are the only retries, so that a limit is a limit
    if protocol in ("gs", "gcs"):
        # The same for gcsfs, whose six tries are a decorator's.
        system._request = functools.partial(type(system)._request.__wrapped__, system)
    return system


def _file_system_class(protocol: str) -> Any:
    import fsspec

    if protocol in ("gs", "gcs") and not os.environ.get(_ZONAL):
        # Its other class asks by gRPC what kind of bucket it is, for zonal ones, and where that is
        # not let through each call waits a minute for the answer.
        return importlib.import_module("gcsfs.core").GCSFileSystem
    return fsspec.get_filesystem_class(protocol)


def _settings(url: str, options: StorageOptions) -> dict[str, Any]:
    protocol, timeout = protocol_of(url), options.timeout_s
    if protocol in ("s3", "s3a"):
        return {
            "use_listings_cache": False,
            "max_concurrency": 1,  # one request a shard; shards side by side instead
            "config_kwargs": {
                "retries": {"total_max_attempts": 1},
                "connect_timeout": timeout,
                "read_timeout": timeout,
                "max_pool_connections": 64,
            },
        }
    if protocol in ("http", "https", "gs", "gcs"):
        import aiohttp

        # The default ends any answer, however busy, after five minutes.
        limits = aiohttp.ClientTimeout(total=None, sock_connect=timeout, sock_read=timeout)
        if protocol in ("gs", "gcs"):
            return {"requests_timeout": limits, "use_listings_cache": False}
        from dataloaders.storage.web import login, open_session

        client = {"timeout": limits, "headers": login(url)}
        return {"client_kwargs": client, "get_client": open_session}
    return {}


def credentials(url: str) -> str:
    """How a service is told who asks."""
    return _CREDENTIALS.get(_service(url), "check who may read it")


def read_file(system: Any, url: str) -> bytes:
    """A small file's bytes."""
    if _service(url) != "hf":
        return system.cat_file(url)
    system.resolve_path(url)  # an opened stream would not say that there is no such repository
    return system.cat_file(url, **_STREAMED["hf"])


def copy_file(system: Any, url: str, path: Path, went_on: Callable[[], object]) -> None:
    """A file's bytes into an existing local one, which stays the same file; ``went_on`` is called
    now and then, and may raise to end it."""
    from fsspec.callbacks import Callback

    class Progress(Callback):
        def relative_update(self, inc: int = 1) -> None:
            went_on()

    streamed = _STREAMED.get(_service(url))
    if streamed is None:
        system.get_file(url, str(path), callback=Progress())
        return
    if _service(url) == "hf":
        system.resolve_path(url)
    with system.open(url, "rb", **streamed) as source, path.open("wb") as target:
        while data := source.read(_CHUNK):
            target.write(data)
            went_on()


def storage_error(url: str, doing: str, error: BaseException, tries: int) -> StorageError:
    """What went wrong with a URL, which rule it breaks and what helps, in one line."""
    login = credentials(url)
    name = type(error).__name__
    if no_repository(error):
        why, remedy = f"no such repository or revision, or a private one ({_text(error)})", login
    elif is_absent(error):
        why, remedy = "nothing there", "check the URL, or upload it again"
    elif forbidden(error):
        why, remedy = f"access denied ({_text(error)})", login
    elif "Credential" in name or "Token" in name or name == "RefreshError":
        why, remedy = f"no credentials ({_text(error)})", login
    elif isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        why = f"no space left on the disk of the cache ({_text(error)})"
        remedy = "free some, or set data.cache_dir to another disk or data.cache_gb to less"
    elif may_pass(error):
        why = f"{_text(error)}, {tries} tries"
        remedy = "check the network and the service; the same command goes on from here"
    else:
        why, remedy = _text(error), "check the URL and the service's settings"
    kind = DeniedError if forbidden(error) else StorageError
    return kind(f"{url}: cannot be {doing}: {why}; {remedy}")


def is_absent(error: BaseException) -> bool:
    """Whether the service says that there is no such file, in a place that it knows."""
    if no_repository(error):
        return False
    return isinstance(error, FileNotFoundError) or http_status(error) == 404


def no_repository(error: BaseException) -> bool:
    """Whether the Hugging Face hub knows no such repository or revision.

    It says so, too, of a private one to who may not see it, and its file system says the same of
    every file there, as if the file were missing.
    """
    names = {"RepositoryNotFoundError", "RevisionNotFoundError", "HFValidationError"}
    return any(type(each).__name__ in names for each in (error, error.__cause__))


def _text(error: BaseException) -> str:
    text = redacted(" ".join(str(error).split()))  # before it is cut
    name = type(error).__name__
    if status := http_status(error):
        name = f"HTTP {status}"
    return f"{name}: {text}"[:300] if text else name
