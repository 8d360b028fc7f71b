"""How Ray Train joins the workers by `torch.distributed`, and calls in their main threads."""

from __future__ import annotations

from typing import Any

from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend

from launcher.config import RunConfig
from launcher.leaving import watch_sigterm

_NEVER_S = 10 * 365 * 86400


class _Backend(_TorchBackend):
    """Also lets SIGTERM be a request: handlers can only be installed from the main thread, which
    runs Ray's calls, while training runs in a thread of its own."""

    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        super().on_start(worker_group, backend_config)
        worker_group.execute(watch_sigterm)


class _Config(TorchConfig):
    @property
    def backend_cls(self) -> type[_TorchBackend]:
        return _Backend


def torch_backend(config: RunConfig) -> TorchConfig:
    """The backend's configuration: a collective takes no longer than a worker may hang."""
    return _Config(
        backend="nccl" if config.scale.use_gpu else "gloo",
        timeout_s=int(config.safety.hang_timeout_s) or _NEVER_S,
    )
