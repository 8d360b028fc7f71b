"""A URL's file system through fsspec, and its failures in a line a user can act on.

Credentials are found as each service's own tools find them: environment, profile, role.
"""

from __future__ import annotations

import errno
import inspect
import logging
from typing import Any

from dataloaders.errors import StorageError
from dataloaders.storage.options import StorageOptions
from dataloaders.storage.retry import http_status, may_pass

_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "http": "http", "https": "http"}
_CREDENTIALS = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE or a role (a public "
    "bucket: FSSPEC_S3_ANON=true; another server: AWS_ENDPOINT_URL)",
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS or run `gcloud auth application-default login` (a "
    "public bucket: FSSPEC_GS_TOKEN=anon)",
    "hf": "set HF_TOKEN or run `huggingface-cli login`, and accept the data set's terms",
}


def protocol_of(url: str) -> str:
    return url.partition("://")[0].lower()


def file_system(url: str, options: StorageOptions) -> Any:
    """The fsspec file system for a URL; its methods take the URL itself.

    Raises:
        StorageError: no such protocol, or its package is not installed.
    """
    import fsspec

    protocol = protocol_of(url)
    try:
        _check_url_is_enough(fsspec.get_filesystem_class(protocol))
        system = fsspec.filesystem(protocol, **_settings(protocol, options))
    except (ImportError, ValueError) as error:
        extra = _EXTRAS.get(protocol)
        remedy = (
            f"install it: pip install 'gcg-train[{extra}]'"
            if extra
            else "use a local path, s3://, gs://, hf://, http:// or https://"
        )
        raise StorageError(f"{url}: {protocol}:// cannot be read ({error}); {remedy}") from None
    if protocol in ("s3", "s3a"):
        for library in ("botocore", "aiobotocore"):  # which credentials were found, on every start
            logging.getLogger(library).setLevel(logging.WARNING)
        system.retries = 1  # of requests: ours are the only retries, so that a limit is a limit
    return system


def _check_url_is_enough(kind: type) -> None:
    """Raise ValueError for a file system that is made with more than settings have defaults for,
    such as FTP's host: half made, it complains when it goes."""
    needs = [
        parameter.name
        for parameter in inspect.signature(kind).parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    ]
    if needs:
        raise ValueError(f"it needs {', '.join(needs)} besides")


def _settings(protocol: str, options: StorageOptions) -> dict[str, Any]:
    timeout = options.timeout_s
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
    if protocol in ("http", "https"):
        import aiohttp

        # The default ends any answer, however busy, after five minutes.
        limits = aiohttp.ClientTimeout(total=None, sock_connect=timeout, sock_read=timeout)
        return {"client_kwargs": {"timeout": limits}}
    return {}


def storage_error(url: str, doing: str, error: BaseException, tries: int) -> StorageError:
    """What went wrong with a URL, which rule it breaks and what helps, in one line."""
    protocol = {"s3a": "s3", "gcs": "gs"}.get(protocol_of(url), protocol_of(url))
    status = http_status(error)
    if isinstance(error, FileNotFoundError) or status == 404:
        why, remedy = "nothing there", "check the URL, or upload it again"
    elif isinstance(error, PermissionError) or status in (401, 403):
        why = f"access denied ({_text(error)})"
        remedy = _CREDENTIALS.get(protocol, "check who may read it")
    elif "Credential" in type(error).__name__ or "Token" in type(error).__name__:
        why = f"no credentials ({_text(error)})"
        remedy = _CREDENTIALS.get(protocol, "check who may read it")
    elif isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        why = f"no space left on the disk of the cache ({_text(error)})"
        remedy = "free some, or set data.cache_dir to another disk or data.cache_gb to less"
    elif may_pass(error):
        why = f"{_text(error)}, {tries} tries"
        remedy = "check the network and the service; the same command goes on from here"
    else:
        why, remedy = _text(error), "check the URL and the service's settings"
    return StorageError(f"{url}: cannot be {doing}: {why}; {remedy}")


def _text(error: BaseException) -> str:
    text = " ".join(str(error).split())
    name = type(error).__name__
    if status := http_status(error):
        name = f"HTTP {status}"
    return f"{name}: {text}"[:300] if text else name
