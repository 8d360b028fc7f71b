"""`gcg k8s`: render a run for Kubernetes, check one, and drain a node from inside its Pod."""

from __future__ import annotations

import argparse
from pathlib import Path

from launcher.commands import say
from launcher.errors import UserError

_Stages = argparse._SubParsersAction  # type: ignore[type-arg]
DISAGREES = 1


def add_to(stages: _Stages[argparse.ArgumentParser]) -> None:
    stage = stages.add_parser("k8s", help="a run on Kubernetes: render its objects, check them")
    actions = stage.add_subparsers(dest="action", required=True, metavar="ACTION")
    _add_render(actions)
    _add_check(actions)
    action = actions.add_parser(
        "drain",
        help="tell Ray that this node goes, and wait until it is empty; a Pod's preStop",
    )
    action.add_argument("--seconds", type=int, default=240, help="to wait at most; 240")
    action.add_argument("--address", metavar="HOST:PORT", help="of Ray's head; RAY_ADDRESS")
    action.add_argument("--ip", metavar="IP", help="of this node; POD_IP, or what Ray finds")
    action.set_defaults(run=_drain)


def _add_render(actions: _Stages[argparse.ArgumentParser]) -> None:
    action = actions.add_parser(
        "render",
        help="write a kustomization for a run file, sized by its plan",
        description="Writes OUT for `kubectl apply -k`: the base with components, the run file, "
        "replicas, GPUs, memory and /dev/shm by the plan's arithmetic. What does not agree is "
        "refused, and nothing is written.",
    )
    action.add_argument("config", type=Path, metavar="CONFIG")
    action.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    action.add_argument("--nodes", type=int, required=True, metavar="N", help="worker Pods")
    action.add_argument("--gpus-per-node", type=int, default=8, metavar="G", help="8")
    action.add_argument("--image", required=True, metavar="NAME@sha256:...", help="by digest")
    action.add_argument("--out", type=Path, required=True, metavar="DIR")
    action.add_argument(
        "--component", action="append", default=[], metavar="NAME",
        help="rdma, spot, kueue, monitoring; may be given again",
    )  # fmt: skip
    action.add_argument("--name", help="before all names, and in the Pods' labels; run.name")
    action.add_argument("--namespace", help="that is there already; the current one")
    action.add_argument("--claim", metavar="NAME", help="a PersistentVolumeClaim that is there")
    action.add_argument("--gpu-product", metavar="LABEL", help="of the nodes, such as NVIDIA-H200")
    action.add_argument("--gpu-memory", type=float, metavar="GB", help="10^9 bytes; 80")
    action.add_argument("--node-memory", type=float, metavar="GiB", help="that a Pod may have")
    action.add_argument("--node-cpus", type=float, metavar="N", help="that a Pod may have")
    action.add_argument("--base", type=Path, metavar="DIR", help="with base/ and components/; ours")
    action.set_defaults(run=_render)


def _add_check(actions: _Stages[argparse.ArgumentParser]) -> None:
    action = actions.add_parser(
        "check",
        help="whether a run's Pods agree with its run file",
        description="Workers against replicas, CPUs and GPUs; memory and /dev/shm against the "
        "plan; storage, image, budgets, grace. Exit code 1 and a line for each that does not.",
    )
    action.add_argument(
        "source", metavar="DIR|FILE|-", help="a kustomization, rendered objects, or stdin"
    )
    action.add_argument("--gpu-memory", type=float, metavar="GB", help="10^9 bytes; by the node")
    action.set_defaults(run=_check)


def _render(args: argparse.Namespace) -> int:
    from launcher.config import load_run_config
    from launcher.k8s.parts import parts_folder
    from launcher.k8s.quantities import GIB
    from launcher.k8s.render import render
    from launcher.k8s.wish import Wish

    _positive(args, "gpu_memory", "node_memory", "node_cpus")
    config = load_run_config(args.config, args.overrides)
    wish = Wish(
        config=config,
        nodes=args.nodes,
        gpus_per_node=args.gpus_per_node,
        image=args.image,
        name=args.name or config.run.name.lower().replace("_", "-").replace(".", "-"),
        namespace=args.namespace,
        asked=tuple(args.component),
        claim=args.claim,
        gpu_product=args.gpu_product,
        node_memory=None if args.node_memory is None else args.node_memory * GIB,
        node_cpus=args.node_cpus,
    )
    for line in render(wish, parts_folder(args.base), args.out, args.gpu_memory):
        say(line)
    return 0


def _check(args: argparse.Namespace) -> int:
    from launcher.k8s.agreement import disagreements
    from launcher.k8s.objects import read_objects, run_objects

    _positive(args, "gpu_memory")
    run = run_objects(read_objects(args.source))
    found = disagreements(run, args.gpu_memory)
    for line in found:
        say(line)
    if found:
        return DISAGREES
    config = run.config
    say(
        f"{run.name}: agrees; {config.world_size} workers in "
        f"{sum(group.replicas for group in run.workers)} Pods, global batch "
        f"{config.data.global_batch}"
    )
    return 0


def _drain(args: argparse.Namespace) -> int:
    from launcher.k8s.drain import drain

    _positive(args, "seconds")
    say(drain(args.seconds, args.address, args.ip))
    return 0


def _positive(args: argparse.Namespace, *names: str) -> None:
    problems = [
        f"--{name.replace('_', '-')} {value:g}: must be more than 0; give such a number"
        for name in names
        if (value := getattr(args, name)) is not None and not value > 0
    ]
    if problems:
        raise UserError(problems)
