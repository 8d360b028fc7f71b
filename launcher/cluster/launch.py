"""Ray owns the processes: start or join a cluster, run the workers, start them again when lost."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from launcher.checkpoints.fence import current_attempt
from launcher.cluster.departure import ClusterLostError, DepartedError, Departure
from launcher.cluster.elastic import Growth, wait_for_room, worker_resources
from launcher.cluster.interface import check_interfaces
from launcher.config import RunConfig
from launcher.errors import PreflightError, RunStoppedError
from launcher.observe.events import EventFile
from launcher.observe.progress import Progress
from launcher.storage.places import is_remote, working_place
from launcher.storage.run_folder import RunFolder, read_json
from launcher.training.noise import quiet_environment

logger = logging.getLogger(__name__)

# Workers exchange tensors by gloo or NCCL; Ray's object store only carries the run file.
_OBJECT_STORE_BYTES = 100 * 2**20

# For a cluster of our own on this machine. First processes that it would start and never need, each
# some seconds of a core.
_OWN_CLUSTER_ENV = {
    "RAY_prestart_worker_first_driver": "0",
    "RAY_enable_worker_prestart": "0",  # workers need an environment of their own
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # nobody takes our own machine away
    # Ray's switch for laptops, in spite of its name for Linux, too: without a cluster of machines
    # every port is the loopback's, and who is elsewhere cannot even knock.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
}

# Where the number of workers may change, Ray is asked for room that has just been seen: if it is
# not there, a node has gone meanwhile, and the command looks again instead of waiting for it.
_ELASTIC_ENV = ("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "30")


def run_on_cluster(config: RunConfig) -> None:
    """Train to the end, through the loss of up to ``scale.max_failures`` worker groups.

    Args:
        config: with absolute paths; ``storage`` is seen by every worker.

    Raises:
        RunStoppedError: a rule stopped the run.
        DepartedError: the command was asked to stop.
        ClusterLostError: Ray's head has gone.
        ray.train.TrainingFailedError: workers failed more often than allowed.
    """
    if config.scale.is_elastic:
        os.environ.setdefault(*_ELASTIC_ENV)
    quiet_environment()
    folder = RunFolder(config.folder)
    folder.stopped.unlink(missing_ok=True)
    try:
        with (
            ray_cluster(config),
            Departure(folder, config.safety.grace_s) as departure,
            Progress(folder.metrics, config.optim.steps, config.run.name),
        ):
            check_interfaces(config)
            left = _fit_until_done(config, folder, departure)
    finally:
        EventFile(folder.events).add("over")
    if departure.number is not None and not folder.is_complete:
        raise DepartedError(departure.number, left)
    check_outcome(folder)


def check_outcome(folder: RunFolder) -> None:
    """Raise RunStoppedError unless workers that ended without a failure completed the run."""
    stopped = read_json(folder.stopped)
    if stopped is not None:
        raise RunStoppedError(stopped["lines"])
    if not folder.is_complete:
        raise RunStoppedError(
            f"{folder.root}: attempt {current_attempt(folder)}, begun elsewhere, owns this run "
            "now; this one has stopped: follow the other, its logs are in the run's folder"
        )


def _fit_until_done(config: RunConfig, folder: RunFolder, departure: Departure) -> int | None:
    """Start workers until the run is complete or stopped, or the command departs.

    Workers that left since they or their node were asked to, or since there is room for more, are
    no failure: others take their place, and have made a step at least before they can be asked.
    Returns the step at which they left, None if they did not.
    """
    from ray.train import TrainingFailedError

    from launcher.cluster.backend import Losses, told

    losses = Losses(config)
    while True:
        folder.left.unlink(missing_ok=True)
        world = wait_for_room(config, lambda: departure.number is not None)
        if world is None:
            return None
        trainer = build_trainer(config.at_world_size(world), losses.within_one_fit(config))
        try:
            _departing(trainer.fit, departure, Growth(config, folder, world))
        except TrainingFailedError as error:
            if lines := told(error):
                raise RunStoppedError(lines) from None
            if not losses.bears(error):
                raise
            logger.warning("workers were lost: %s", str(error).strip().splitlines()[-1])
            continue
        left = read_json(folder.left)
        if left is None:
            return None
        logger.warning("workers left with a checkpoint of step %(step)d: %(reason)s", left)
        if departure.number is not None:
            return left["step"]


def _departing(fit: Callable[[], Any], departure: Departure, growth: Growth) -> None:
    """Call ``fit`` beside the main thread, until it ends or the command has to.

    In the main thread Ray Train installs a handler that exits with code 0, as if all were done.
    """
    from ray.exceptions import RayActorError

    failure: list[BaseException] = []

    def call() -> None:
        try:
            fit()
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=call, name="ray-train", daemon=True)
    thread.start()
    while thread.is_alive() and not departure.is_over:
        growth.look()
        thread.join(timeout=0.2)
    # The only actor that it waits for is Ray's controller of the run, on the command's own node.
    lost = bool(failure) and isinstance(failure[0], RayActorError)
    if not lost:  # without a head every call to Ray hangs for a minute, then ends the process
        growth.close()
    if failure and departure.number is None:
        if lost:
            raise ClusterLostError(str(failure[0]).strip().splitlines()[0])
        raise failure[0]


def build_trainer(config: RunConfig, failures: Any) -> Any:
    """The ``TorchTrainer`` of an attempt with ``config.world_size`` workers.

    Ray must be initialised. ``failures``: the ``FailureConfig``.
    """
    from ray.train import RunConfig as RayRunConfig
    from ray.train.torch import TorchTrainer

    from launcher.cluster.backend import torch_backend
    from launcher.training.worker import ray_worker

    return TorchTrainer(
        ray_worker,
        train_loop_config={"config": config.model_dump(mode="json")},
        torch_config=torch_backend(config),
        scaling_config=placement(config),
        run_config=RayRunConfig(
            name=config.run.name,
            storage_path=str(_ray_storage(config)),
            failure_config=failures,
            worker_runtime_env={"env_vars": worker_environment(config)},
        ),
    )


def _ray_storage(config: RunConfig) -> Path:
    """Where Ray Train keeps notes of its own, which nobody needs once the command has ended.

    No checkpoint of a run goes through it, so only its controller writes there, on this machine.
    """
    folder = config.folder
    return working_place(folder) / "ray" if is_remote(folder) else folder.parent


def placement(config: RunConfig) -> Any:
    """The ``ScalingConfig`` of ``config.world_size`` workers: on as few nodes as hold them, where
    Ray gives the workers of a node ranks one after another."""
    from ray.train import ScalingConfig

    return ScalingConfig(
        num_workers=config.world_size,
        use_gpu=config.scale.use_gpu,
        resources_per_worker=worker_resources(config),
        placement_strategy="PACK",
    )


def worker_environment(config: RunConfig) -> dict[str, str]:
    """What a worker's environment holds before it imports anything."""
    environment = {
        "OMP_NUM_THREADS": str(config.scale.threads_per_worker),
        "TOKENIZERS_PARALLELISM": "false",  # the loader has threads of its own
    }
    if not config.scale.use_gpu:
        environment["DS_ACCELERATOR"] = "cpu"
    return environment


@contextmanager
def ray_cluster(config: RunConfig) -> Iterator[None]:
    """Ray for the time of a run: joined if there is a cluster to join, else one of our own.

    A cluster of our own lives on this machine, without a dashboard, on loopback ports and behind a
    token, and ends with this process even if that is killed: Ray ties its processes to ours.
    """
    address = config.scale.address or os.environ.get("RAY_ADDRESS")
    on_sigterm = signal.getsignal(signal.SIGTERM)
    if not address:
        _own_cluster_environment()
    import ray

    options: dict[str, Any] = {
        "logging_level": logging.ERROR,
        "log_to_driver": False,  # workers log into the run's folder
    }
    if address:
        try:
            ray.init(address=address, **options)
        except (ConnectionError, ValueError) as error:
            raise PreflightError(_cannot_join(config, address)) from error
        _warn_if_too_small(config)
    else:
        ray.init(
            address="local",
            num_cpus=config.world_size * config.scale.cpus_per_worker,
            include_dashboard=False,
            object_store_memory=_OBJECT_STORE_BYTES,
            **options,
        )
        if config.log.prometheus:
            _say_where_metrics_are()
    logging.getLogger("ray").setLevel(logging.ERROR)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_sigterm)  # Ray's own prints a stack trace and aborts
    try:
        yield
    finally:
        ray.shutdown()


def _own_cluster_environment() -> None:
    for name, value in _OWN_CLUSTER_ENV.items():
        os.environ.setdefault(name, value)
    if "RAY_AUTH_MODE" not in os.environ and "ray" not in sys.modules:
        # Ray would protect the cluster with a token that it leaves in the user's home, where it
        # changes what a later `ray start` does. Ours lives as long as this process. Ray reads the
        # mode when it is imported: set later, the two would not fit each other.
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def _say_where_metrics_are() -> None:
    import ray

    port = ray.nodes()[0].get("MetricsExportPort")
    logger.info("Prometheus metrics: http://127.0.0.1:%s/metrics", port)


def _cannot_join(config: RunConfig, address: str) -> str:
    source = "scale.address" if config.scale.address else "RAY_ADDRESS"
    return (
        f"{source} = {address}: no Ray cluster could be joined there; check that it is up, and "
        "that RAY_AUTH_MODE and its token are those of the cluster"
    )


def _warn_if_too_small(config: RunConfig) -> None:
    import ray

    have, least = ray.cluster_resources(), config.world_sizes[0]
    for kind, per_worker in worker_resources(config).items():
        need = per_worker * least
        if have.get(kind, 0) < need:
            logger.warning(
                "the cluster has %g %ss, %d workers need %d: waiting until it has grown",
                have.get(kind, 0), kind, least, need,
            )  # fmt: skip
