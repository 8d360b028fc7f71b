"""A Ray cluster's job API, over HTTP with its token. What goes wrong there is told in one line."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from launcher.errors import UserError

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
_ANSWER_S = 15.0
_GIVE_TOKEN = (
    "set RAY_AUTH_MODE=token, and the cluster's token in RAY_AUTH_TOKEN or the file that holds it "
    "in RAY_AUTH_TOKEN_PATH"
)


class UnreachableError(UserError):
    """Nothing answers at the cluster's address, now."""


def find_address(given: str | None) -> str:
    """The URL of the cluster's dashboard: what is given, else what the environment says, else the
    one that a head node on this machine has.

    Raises:
        UserError: it is no such URL.
    """
    named = [("--address", given), ("RAY_API_SERVER_ADDRESS", _set("RAY_API_SERVER_ADDRESS"))]
    ray_address = _set("RAY_ADDRESS")
    if ray_address is not None and ray_address.startswith(("http://", "https://")):
        named.append(("RAY_ADDRESS", ray_address))  # else it is the cluster's inner address
    setting, address = next(((s, a) for s, a in named if a), ("", DEFAULT_ADDRESS))
    try:
        parts = urlsplit(address)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        parts, usable = urlsplit(""), False
    if parts.password is not None or parts.username is not None:
        raise UserError(
            f"{setting}: holds a name or password, which would show in listings of processes; "
            "leave it out: the cluster's token comes from RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH"
        )
    if not usable or parts.query or parts.fragment:
        raise UserError(
            f"{setting} = {address}: is not the URL of a Ray dashboard; write it as "
            "http://HEAD:8265"
        )
    return address.rstrip("/")


def _set(name: str) -> str | None:
    return os.environ.get(name) or None


class Jobs:
    """The jobs of one cluster.

    Args:
        address: as of :func:`find_address`.

    Raises:
        UnreachableError: nothing answers there.
        UserError: what answers is no Ray dashboard, or refuses the token.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        if "RAY_AUTH_MODE" not in os.environ and (
            _set("RAY_AUTH_TOKEN") or _set("RAY_AUTH_TOKEN_PATH")
        ):
            os.environ["RAY_AUTH_MODE"] = "token"  # Ray reads it when it is imported
        try:
            import requests
            from ray.job_submission import JobSubmissionClient
        except ImportError as error:
            raise UserError(
                f"{error.name}: is not installed, and jobs need it; pip install 'gcg-train[train]'"
            ) from None
        logging.getLogger("ray").setLevel(logging.ERROR)
        logging.getLogger("ray.dashboard.modules.dashboard_sdk").setLevel(logging.ERROR)
        logging.getLogger("ray.dashboard.modules.job.sdk").setLevel(logging.ERROR)
        with _told(address):
            requests.get(f"{address}/api/version", timeout=_ANSWER_S)  # Ray's own has no time limit
            with _winning(address):
                self._client: JobSubmissionClient = JobSubmissionClient(address)

    @property
    def ray_version(self) -> str:
        """Of the cluster."""
        return str(self._client._server_ray_version)

    def all(self) -> list[JobDetails]:
        with _told(self.address):
            return self._client.list_jobs()

    def get(self, submission_id: str) -> JobDetails:
        with _told(self.address):
            return self._client.get_job_info(submission_id)

    def log(self, submission_id: str) -> str:
        """All that the job has written so far."""
        with _told(self.address):
            return self._client.get_job_logs(submission_id)

    async def tail(self, submission_id: str) -> AsyncIterator[str]:
        """What the job has written and writes, from its first line, until it ends."""
        with _told(self.address):
            try:
                async for text in self._client.tail_job_logs(submission_id):
                    yield text
            except RuntimeError as error:  # Ray's word for a connection that broke
                raise ConnectionError(str(error)) from None

    def submit(
        self,
        submission_id: str,
        entrypoint: str,
        runtime_env: dict[str, Any],
        metadata: dict[str, str],
    ) -> None:
        """Upload what ``runtime_env`` names of this machine, and start the job."""
        with _told(self.address):
            self._client.submit_job(
                submission_id=submission_id,
                entrypoint=entrypoint,
                runtime_env=runtime_env,
                metadata=metadata,
            )

    def stop(self, submission_id: str) -> bool:
        """Ask a job to end; returns whether it was running."""
        with _told(self.address):
            return self._client.stop_job(submission_id)


@contextmanager
def _winning(address: str) -> Iterator[None]:
    """Ray takes an address of the environment rather than the one that it is given."""
    before = os.environ.get("RAY_API_SERVER_ADDRESS")
    os.environ["RAY_API_SERVER_ADDRESS"] = address
    try:
        yield
    finally:
        del os.environ["RAY_API_SERVER_ADDRESS"]
        if before is not None:
            os.environ["RAY_API_SERVER_ADDRESS"] = before


@contextmanager
def _told(address: str) -> Iterator[None]:
    """Errors of a request as a line. No exception of Ray's is chained: its text is not ours."""
    import aiohttp
    import requests
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError as error:
        raise UserError(_refused(address, str(error))) from None
    except aiohttp.WSServerHandshakeError as error:
        raise UserError(f"{address}: the job's log is refused with status {error.status}") from None
    except (requests.ConnectionError, requests.Timeout) as error:
        raise UnreachableError(_unreachable(address, error)) from None
    except (requests.RequestException, ValueError, KeyError, RuntimeError) as error:
        raise UserError(
            f"{address}: the request was not understood: {_ends_of(error)}; check that this is the "
            "dashboard of a Ray cluster, with the job API"
        ) from None
    except (aiohttp.ClientError, OSError) as error:
        raise UnreachableError(_unreachable(address, error)) from None


def _unreachable(address: str, error: Exception) -> str:
    return (
        f"{address}: no Ray dashboard answers there ({_reason(error)}); check that the cluster is "
        "up and the address is its dashboard's, port 8265 unless it was changed"
    )


def _ends_of(error: Exception) -> str:
    """Of an answer of many lines, a traceback for the most part, the first and the last."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip(" .")]
    if not lines:
        return type(error).__name__
    return lines[0][:300] if len(lines) == 1 else f"{lines[0][:300]} … {lines[-1][:300]}"


def _refused(address: str, why: str) -> str:
    if why.startswith("Authentication required"):
        return f"{address}: the cluster asks for a token, and none was sent; {_GIVE_TOKEN}"
    if why.startswith("Authentication failed"):
        return f"{address}: the token that was sent is not the cluster's; {_GIVE_TOKEN}"
    path = _set("RAY_AUTH_TOKEN_PATH")
    if path is not None and _set("RAY_AUTH_TOKEN") is None:
        return (
            f"RAY_AUTH_TOKEN_PATH = {path}: cannot be read or is empty; name the file that holds "
            "the cluster's token"
        )
    return f"RAY_AUTH_MODE = token: there is no token; {_GIVE_TOKEN}"


def _reason(error: Exception) -> str:
    import requests

    if isinstance(error, requests.Timeout):
        return f"no answer in {_ANSWER_S:.0f} s"
    root: BaseException = error
    while (below := root.__cause__ or root.__context__) is not None:
        root = below
    if isinstance(root, OSError) and root.strerror:
        return root.strerror
    return type(root).__name__
