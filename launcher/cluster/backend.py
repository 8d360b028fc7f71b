"""How Ray Train joins the workers by `torch.distributed`, calls in their main threads, and counts
their failures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ray.train import FailureConfig, TrainingFailedError
from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend
from ray.train.v2._internal.execution.failure_handling import (
    DefaultFailurePolicy,
    FailureDecision,
)

from launcher.cluster.interface import use_interface
from launcher.cluster.leaving import watch_sigterm
from launcher.config import RunConfig
from launcher.errors import UserError

_NEVER_S = 10 * 365 * 86400


class _Backend(_TorchBackend):
    """Also chooses the network, and lets SIGTERM be a request: handlers can only be installed from
    the main thread, which runs Ray's calls, while training runs in a thread of its own."""

    def on_start(self, worker_group: Any, backend_config: _Config) -> None:
        worker_group.execute(use_interface, backend_config.interface)
        super().on_start(worker_group, backend_config)
        worker_group.execute(watch_sigterm)


@dataclass
class _Config(TorchConfig):
    interface: str | None = None

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        return _Backend


def torch_backend(config: RunConfig) -> TorchConfig:
    """The backend's configuration: a collective takes no longer than a worker may hang."""
    return _Config(
        backend="nccl" if config.scale.use_gpu else "gloo",
        timeout_s=int(config.safety.hang_timeout_s) or _NEVER_S,
        interface=config.scale.interface,
    )


class Losses:
    """Counts lost groups of workers. Where their number may change each attempt is a fit of its own
    for Ray, so the command counts, by Ray's own rules: a node that Ray was told to take away, or
    that went while workers were starting, is no failure."""

    def __init__(self, config: RunConfig) -> None:
        self._is_elastic = config.scale.is_elastic
        self._policy = DefaultFailurePolicy(FailureConfig(max_failures=config.scale.max_failures))

    def within_one_fit(self, config: RunConfig) -> FailureConfig:
        """What Ray bears by itself: everything at a fixed number of workers, else nothing."""
        if not self._is_elastic:
            return FailureConfig(max_failures=config.scale.max_failures)
        return FailureConfig(max_failures=0, max_preemption_failures=0, controller_failure_limit=0)

    def bears(self, error: TrainingFailedError) -> bool:
        """Whether workers are to be started again after ``error``."""
        if not self._is_elastic or told(error):
            return False
        return self._policy.make_decision(error) == FailureDecision.RETRY


def told(error: TrainingFailedError) -> list[str]:
    """The lines of users' errors with which workers failed, as they do where the storage takes no
    ``stopped.json``."""
    failures = getattr(error, "worker_failures", {}).values()
    causes = [getattr(failure, "_base_exc", failure) for failure in failures]
    lines = [line for cause in causes if isinstance(cause, UserError) for line in cause.lines]
    return list(dict.fromkeys(lines))
