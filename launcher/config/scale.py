"""The ``scale`` section of a run file: how many workers, of what, and how many may be lost."""

from __future__ import annotations

import re
from ipaddress import ip_network
from typing import Annotated, Any

from pydantic import Field, ValidationError, ValidatorFunctionWrapHandler, field_validator

from gcg.section import Section
from launcher.config.data import RayAddress

WorkerCount = Annotated[int, Field(ge=1, le=65_536)]


class ScaleSection(Section):
    """Where it runs. Nothing here changes what is learned."""

    num_workers: WorkerCount | tuple[WorkerCount, WorkerCount] = Field(
        default=2, description="or [least, most]: as many as there is room for"
    )
    settle_s: float = Field(
        default=10.0,
        ge=0,
        le=1e6,
        description="with [least, most]: how long a change of room must last",
    )
    use_gpu: bool = Field(default=False, description="a GPU for each worker")
    cpus_per_worker: int = Field(default=1, ge=1, le=4096, description="that Ray reserves for each")
    threads_per_worker: int = Field(default=1, ge=1, le=4096, description="of torch, on CPUs")
    max_failures: int = Field(
        default=3, ge=-1, description="worker losses to survive; -1: any number"
    )
    interface: str | None = Field(
        default=None,
        description="the workers' network: a name, or 10.1.0.0/16; null: with the Ray address",
    )
    address: RayAddress | None = Field(
        default=None, description="a Ray cluster to join; None: RAY_ADDRESS or own"
    )

    @field_validator("num_workers", mode="wrap")
    @classmethod
    def _count_or_range(cls, value: Any, check: ValidatorFunctionWrapHandler) -> Any:
        # In one line for both forms; pydantic's own would name each.
        try:
            workers = check(value)
        except ValidationError:
            raise ValueError(
                "must be a number of workers, at least 1, or [least, most]; give such a value"
            ) from None
        if isinstance(workers, tuple) and workers[0] > workers[1]:
            raise ValueError("must be [least, most]; swap them")
        return workers

    @field_validator("interface")
    @classmethod
    def _name_or_network(cls, value: str | None) -> str | None:
        if value is None or re.fullmatch(r"(?=.*[A-Za-z])[A-Za-z0-9][\w.:@-]{0,14}", value):
            return value
        try:
            if "/" in value:
                return str(ip_network(value, strict=False))
        except ValueError:
            pass
        raise ValueError(
            "is neither the name of a network interface nor a network; give eth0 or 10.1.0.0/16"
        )

    @property
    def is_elastic(self) -> bool:
        """Whether the number of workers may change while the run goes on."""
        return not isinstance(self.num_workers, int)

    @property
    def bounds(self) -> tuple[int, int]:
        """The least and the most workers."""
        workers = self.num_workers
        return (workers, workers) if isinstance(workers, int) else workers
