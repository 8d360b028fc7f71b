"""What data may say of places, and what may be said of places in a message.

A run file and a command line are their user's own: they may name any path, and URLs of stores that
hold data. An index, a tar or a manifest may come from anyone: a name in them stays below the
folder they lie in. Neither holds a password, which would end in logs, trackers and pages.
"""

from __future__ import annotations

import logging
import os
import re
from urllib.parse import unquote

# Of fsspec's many, those that store data: others run commands on this or another machine (ssh,
# sftp, dask), read what is not meant (github, git, jupyter), or unwrap one place into another.
PROTOCOLS = ("s3", "s3a", "gs", "gcs", "hf", "http", "https", "file", "memory")
USUAL = "s3://, gs://, hf://, https:// or http://"
_LEAVES = re.compile(r"^/|(^|/)\.\.(/|$)")
_UNPRINTED = re.compile(r"[\x00-\x1f\x7f\\]")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
# The keys of object stores may have slashes in them.
_USER = re.compile(r"(?<=://)([^/@\s'\"]+|[^/:@\s'\"]*:(?!\d+(?:/|$))[^@\s'\"]*)@")
_SECRET_NAME = re.compile(
    r"(secret|password|passwd|token|credential|api_?key|access_?key|private_?key)$|^key$",
    re.IGNORECASE,
)
_SHORTEST = 12  # characters of a secret in the environment; a word of everyday speech is none
# A question mark that ends a sentence is followed by no such thing.
_QUERY = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://[^\s?#'\"<>]*)([?#])[^\s'\"<>)]+")


def url_fault(url: str) -> str | None:
    """Rule and remedy that a URL breaks; None if data may be read from there.

    Neither repeats a part of the URL that could be a secret.
    """
    protocol, _, rest = url.partition("://")
    if names_user(url):
        return (
            "holds a user name or a password, which would be written into logs and run folders; "
            "take it out and set it in the environment, as docs/data.md says"
        )
    if protocol.lower() not in PROTOCOLS or "::" in protocol:
        return f"data are not read from {protocol[:20]}://; use a local path, {USUAL}"
    if "?" in rest or "#" in rest:
        return (
            "holds a query, which is where signatures and tokens stand; name the folder alone, "
            "and set what signs a request in the environment, as docs/data.md says"
        )
    if protocol.lower() == "file" and rest.partition("/")[0] not in ("", "localhost"):
        return "names another machine, from which no file can be read; write file:///path"
    return None


def names_user(url: str) -> bool:
    """Whether a URL holds ``user@`` or ``user:password@`` before its host."""
    return bool(_USER.search(url))


def name_fault(name: object) -> str | None:
    """Why a name that stands in data may not be used for a file below their folder."""
    if not isinstance(name, str) or not name:
        return "must be a name"
    if _SCHEME.match(name):
        return "must be a name below the data's own folder, not a URL or a command"
    return key_fault(unquote(name)) or key_fault(name)


def key_fault(key: str) -> str | None:
    """Why a sample's key, or a member's name, may not be used: it would leave a folder that it is
    unpacked into, or a line that it is written on."""
    if _LEAVES.search(key):
        return "must be a name below the data's own folder, without / before it or .. in it"
    if _UNPRINTED.search(key):
        return "must have neither control characters nor backslashes"
    return None


def redacted(text: str) -> str:
    """A message without what it says of who asks: ``user:password@`` and queries of URLs, and the
    values of this process's environment that are secrets by their names."""
    if "://" in text:
        text = _QUERY.sub(r"\1\2…", _USER.sub("…@", text))
    for name, value in os.environ.items():
        if len(value) >= _SHORTEST and value in text and _SECRET_NAME.search(name):
            text = text.replace(value, "…")
    return text


def is_secret_name(name: str) -> bool:
    """Whether a setting's name says that its value must not be shown."""
    return bool(_SECRET_NAME.search(name))


class RedactingFormatter(logging.Formatter):
    """Log lines without secrets, whichever library they come from, tracebacks included."""

    def format(self, record: logging.LogRecord) -> str:
        return redacted(super().format(record))
