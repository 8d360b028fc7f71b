"""The ``data`` section of a run file: what is learned from, in which order, and what may be bad."""

from __future__ import annotations

import re
from os.path import normpath
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator

from dataloaders.location import is_url
from dataloaders.trust import url_fault
from gcg.section import Section
from launcher.storage.places import WRITABLE


def _place(text: str) -> str:
    if text != text.strip() or "\n" in text or "\t" in text:
        raise ValueError("has spaces around it or line breaks in it; take them out")
    if text.startswith("~"):
        raise ValueError("'~' is not expanded here; write the path of your home folder out")
    if is_url(text) and (fault := url_fault(text)):
        raise ValueError(fault)
    if is_url(text) and not _is_whole_url(text):
        raise ValueError("is no whole URL; write it as s3://bucket/folder or https://host/folder")
    return text


def _is_whole_url(text: str) -> bool:
    try:
        return bool(re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*://[^?#]+", text) and urlsplit(text))
    except ValueError:  # a bracket that no address closes
        return False


def _local(path: object) -> object:
    # Before pydantic makes a path of the text: of s3://bucket it would leave s3:/bucket.
    if isinstance(path, (str, Path)):
        if not str(path):
            raise ValueError("must not be empty; name a folder, '.' for this one")
        if is_url(str(path)):
            raise ValueError("must be a folder, not a URL; give one that is mounted where it runs")
        _place(str(path))
    return path


def _storage(place: object) -> object:
    if not isinstance(place, (str, Path)) or not is_url(str(place)):
        return str(path) if isinstance(path := _local(place), Path) else path
    if str(place).partition("://")[0] not in WRITABLE:
        kinds = " or ".join(f"{kind}://" for kind in WRITABLE)
        raise ValueError(f"cannot be written to as a run needs it; give a folder or a {kinds} URL")
    return place


def _ray_address(text: str) -> str:
    if not re.fullmatch(r"auto|local|(ray://)?([\w.-]+|\[[0-9a-fA-F:]+\]):\d{1,5}", text):
        raise ValueError("must be a cluster's host:port; give that, or 'auto' on one of its nodes")
    return text


# A folder or a URL.
Location = Annotated[str, Field(min_length=1), AfterValidator(_place)]
Storage = Annotated[str, BeforeValidator(_storage), AfterValidator(_place)]
LocalPath = Annotated[Path, BeforeValidator(_local)]
RayAddress = Annotated[str, AfterValidator(_ray_address)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]


class TrainSet(Section):
    """One data set of a mixture. What is not given is as for the whole ``data`` section."""

    place: Location = Field(description="a packed folder or its URL")
    repeat: float | None = Field(default=None, gt=0, description="passes over it in an epoch; 1")
    weight: float | None = Field(
        default=None, gt=0, description="its share of an epoch, relative to the other sets' weights"
    )
    labels: Name | None = Field(default=None, description="of this set")
    max_bad_share: float | None = Field(default=None, ge=0, le=1, description="of this set")
    max_consecutive_bad: int | None = Field(default=None, ge=1, description="of this set")


class DataSection(Section):
    """What it learns from. The first six fields fix the order of batches."""

    mixture: tuple[TrainSet, ...] = Field(
        default=(), description="several data sets in place of data.train"
    )
    train: Location | None = Field(
        default=None, validate_default=True, description="a packed folder or its URL"
    )
    val: Location | None = Field(
        default=None, description="chooses the best checkpoint; never `test`"
    )
    test: Location | None = Field(default=None, description="what `gcg eval --split test` asks")
    labels: Name = Field(
        default="topk", description="pseudo-labels: a folder name under <train>/labels"
    )
    questions_per_visit: int = Field(
        default=4, ge=1, description="questions asked per decoded clip"
    )
    streams: int = Field(
        default=8, ge=1, description="C: any world size that divides it sees the same batches"
    )
    global_batch: int = Field(
        default=32, ge=1, description="visits per optimizer step, at any world size"
    )
    block_shards: int = Field(default=4, ge=1, description="shards a stream shuffles together")
    contrast_group: int = Field(
        default=4,
        ge=1,
        description="videos that serve each other as negatives, consecutive in the global batch",
    )
    decoder: Literal["host", "dali"] = Field(
        "host", description="dali: NVDEC on a GPU; on a CPU it decodes VP9 alone"
    )
    cache_dir: LocalPath | None = Field(
        default=None, description="where a node keeps shards of a URL; null: ~/.cache/gcg-train"
    )
    cache_gb: float = Field(
        default=64.0, ge=1e-6, le=1e6, description="the most that lies there; 10^9 bytes"
    )
    retries: int = Field(default=6, ge=0, le=100, description="of a request to a URL that failed")
    decode_threads: int = Field(
        default=2,
        ge=1,
        le=1024,
        description="clips decoded at a time; with dali also the most in a batch",
    )
    max_frame_sizes: int = Field(
        default=8,
        ge=1,
        le=1024,
        description="frame sizes that go to NVDEC; clips of others to the host",
    )
    decode_timeout_s: float = Field(
        default=60.0, ge=0, le=86400, description="a clip that takes longer is bad; 0: no limit"
    )
    prefetch_steps: int = Field(default=2, ge=1, le=1000, description="global batches held ready")
    max_bad_share: float = Field(
        default=0.05, ge=0, le=1, description="unreadable clips until it stops"
    )
    max_consecutive_bad: int = Field(
        default=50, ge=1, description="unreadable clips one after another until it stops"
    )

    @property
    def sets(self) -> tuple[TrainSet, ...]:
        """The data sets that are trained on: ``train``, or those of ``mixture``."""
        return self.mixture or (TrainSet(place=str(self.train)),)

    @field_validator("mixture")
    @classmethod
    def _one_kind_of_rule(cls, mixture: tuple[TrainSet, ...]) -> tuple[TrainSet, ...]:
        places = [
            each.place.rstrip("/") if is_url(each.place) else normpath(each.place)
            for each in mixture
        ]
        if len(set(places)) < len(places):
            raise ValueError("a place is listed twice; list it once, with repeat or weight")
        weighted = [each.weight is not None for each in mixture]
        if any(weighted) and not all(weighted):
            raise ValueError("some sets have a weight and some have none; give all one, or none")
        if any(weighted) and any(each.repeat is not None for each in mixture):
            raise ValueError("some sets have a weight and some a repeat; use one of the two")
        return mixture

    @field_validator("train")
    @classmethod
    def _one_or_several(cls, train: str | None, info: ValidationInfo) -> str | None:
        mixture = info.data.get("mixture")  # None where it is wrong, which is told already
        if train is None and mixture == ():
            raise ValueError(
                "is required; add it to the run file or give --set data.train=…, or list several "
                "sets under data.mixture"
            )
        if train is not None and mixture:
            raise ValueError("data.mixture is given, too; remove one of them")
        return train
