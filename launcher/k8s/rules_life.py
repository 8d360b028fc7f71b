"""Whether a run is tried again, has the time to leave with a checkpoint, and may be moved."""

from __future__ import annotations

from collections.abc import Iterator

from launcher.k8s.objects import RunObjects

# Of Ray's job server: from asking a job to stop until it is killed, seconds.
STOP_WAIT = "RAY_JOB_STOP_WAIT_TIME_S"


def life_problems(run: RunObjects) -> Iterator[str]:
    """That a run is retried, and that there is time to leave with a checkpoint."""
    spec, config = run.job["spec"], run.config
    if not spec.get("backoffLimit"):
        yield "spec.backoffLimit: is not stated, so a lost head ends the run; set it to 2 or more"
    for group in run.groups:
        grace = group.pod.get("terminationGracePeriodSeconds", 30)
        command = group.ray.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command")
        drain = 0.0
        if command and "--seconds" in command[:-1]:
            drain = float(command[command.index("--seconds") + 1])
        if drain >= grace:
            yield (
                f"{group.name}: terminationGracePeriodSeconds {grace} ends before its preStop has "
                f"had its {drain:g} s; raise it above that"
            )
        if group.is_head and config.safety.grace_s >= grace:
            yield (
                f"safety.grace_s = {config.safety.grace_s:g}: the head's Pod has "
                f"terminationGracePeriodSeconds {grace}; lower it, or raise that above it"
            )
        env = {v["name"]: v.get("value") for v in group.ray.get("env", [])}
        stop = float(env.get(STOP_WAIT) or 3)  # Ray's own default
        if group.is_head and config.safety.grace_s >= stop:
            yield (
                f"safety.grace_s = {config.safety.grace_s:g}: a job that is stopped is killed "
                f"after {stop:g} s; lower it, or raise {STOP_WAIT} of the head above it"
            )
        if drain and config.safety.grace_s > drain:
            yield (
                f"safety.grace_s = {config.safety.grace_s:g}: {group.name} Pods are drained for "
                f"{drain:g} s; lower it, or give --seconds of preStop more"
            )


def budget_problems(run: RunObjects) -> Iterator[str]:
    """A budget that no Pod may leave blocks every drain; one without Pods protects none."""
    cluster = run.job["spec"]["rayClusterSpec"]
    templates = {"head": cluster["headGroupSpec"]["template"]}
    templates |= {g["groupName"]: g["template"] for g in cluster.get("workerGroupSpecs", [])}
    for doc in run.docs:
        if doc["kind"] != "PodDisruptionBudget":
            continue
        wanted = doc["spec"]["selector"]["matchLabels"].items()
        picked = [
            group
            for group in run.groups
            if wanted <= templates[group.name].get("metadata", {}).get("labels", {}).items()
        ]
        pods = sum(group.replicas for group in picked)
        name, least = doc["metadata"]["name"], doc["spec"].get("minAvailable")
        only_head = [group.is_head for group in picked] == [True]
        right = 1 if only_head else pods - 1
        if least != right:
            yield (
                f"PodDisruptionBudget {name}: minAvailable {least} of {pods} Pods; use {right}, "
                f"{'the head stays' if only_head else 'so that one at a time may go'}"
            )
