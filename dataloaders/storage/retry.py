"""Trying again: which failures may pass, and how long to wait for that."""

from __future__ import annotations

import errno
import logging
import random
import threading
from collections.abc import Callable
from typing import TypeVar

from dataloaders.storage.options import StorageOptions
from dataloaders.trust import redacted

logger = logging.getLogger(__name__)

T = TypeVar("T")

# A disk that is full or forbidden, a path that cannot be: the next try finds the same.
_FINAL_ERRNO = {
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EINVAL,
    errno.ENOSYS, errno.ENAMETOOLONG,
}  # fmt: skip
# Client libraries' own classes, by name: none of the libraries need be installed.
_FINAL_NAMES = {
    "NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "ProfileNotFound",
    "NoRegionError", "InvalidRegionError", "ParamValidationError", "UnauthorizedSSOTokenError",
    "SSOTokenLoadError", "TokenRetrievalError", "DefaultCredentialsError", "RefreshError",
    "GatedRepoError", "RepositoryNotFoundError", "RevisionNotFoundError", "EntryNotFoundError",
    "LocalTokenNotFoundError", "HFValidationError", "OfflineModeIsEnabled", "InvalidURL",
}  # fmt: skip
# Faults of a program, not of a network; they keep their traceback.
BUGS = (TypeError, AttributeError, LookupError, AssertionError, MemoryError, NotImplementedError)
_FINAL = (
    *BUGS, FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, ValueError,
    ImportError,
)  # fmt: skip


class Stopped(Exception):
    """What was to be tried again is not wanted any more."""


def http_status(error: BaseException) -> int | None:
    """The server's answer, as aiohttp, gcsfs, requests and botocore each keep it."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        response = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    status = getattr(error, "status", None)
    for value in (
        # Not asked for where there is a status: aiohttp warns of it.
        getattr(error, "code", None) if status is None else status,
        getattr(response, "status_code", response),
    ):
        if isinstance(value, int | str) and str(value).isdigit() and 100 <= int(value) < 600:
            return int(value)
    return None


def forbidden(error: BaseException) -> bool:
    """Whether the service knows who asks, or that nobody does, and says no."""
    if isinstance(error, PermissionError) or http_status(error) in (401, 403):
        return True
    # gcsfs keeps nothing else of the status.
    return type(error) is OSError and error.errno is None and str(error).startswith("Forbidden: ")


def may_pass(error: BaseException) -> bool:
    """Whether the same request may succeed later."""
    if isinstance(error, _FINAL) or forbidden(error):
        return False
    if any(cls.__name__ in _FINAL_NAMES for cls in type(error).__mro__):
        return False
    status = http_status(error)
    if status is not None and 400 <= status < 500:
        return status in (408, 425, 429)
    return not (isinstance(error, OSError) and error.errno in _FINAL_ERRNO)


def with_retries(
    action: Callable[[], T], what: str, options: StorageOptions, stop: threading.Event
) -> T:
    """Call ``action`` until it succeeds, with exponential back-off and full jitter between.

    Raises:
        Stopped: ``stop`` was set in between.
        Exception: the last one, if it cannot pass or ``options.retries`` are used up.
    """
    for attempt in range(options.retries + 1):
        if stop.is_set():
            raise Stopped(what)
        try:
            return action()
        except Stopped:
            raise
        except Exception as error:
            if attempt == options.retries or not may_pass(error):
                raise
            ceiling = min(options.max_backoff_s, options.backoff_s * 2**attempt)
            # Many workers meet the same outage: random waits keep them from coming back at once.
            # Neither the wait nor the order in which shards arrive is seen by the plan.
            wait = random.uniform(0, ceiling)
            logger.warning(
                "%s: %s: %s; retry %d of %d in %.1f s",
                what, type(error).__name__, redacted(str(error)), attempt + 1, options.retries,
                wait,
            )  # fmt: skip
            stop.wait(wait)
    raise AssertionError("unreachable")
