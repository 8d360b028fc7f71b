"""Commands of the pages that are not run as they stand there, and why."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

from .pages import Shown


@dataclass(frozen=True)
class NotRun:
    """``pattern`` of the command's words (``*`` for any), ``why`` not.

    ``test``: what runs it, or what comes nearest to it here: a file that holds ``says``.
    """

    pattern: str
    why: str
    test: str = ""
    says: str = ""

    def covers(self, shown: Shown) -> bool:
        return fnmatchcase(" ".join(shown.words), self.pattern.replace("[", "[[]"))


_MINUTES = "minutes of machine time, as it stands"
_CLUSTER = "needs a cluster"
_JOBS = ("needs a Ray cluster that takes jobs", "tests/launcher/test_ray_job.py")
_IMAGE = "needs a container engine and a registry"

NOT_RUN = (
    NotRun("make demo", f"{_MINUTES}; made small", "tests/docs/workspace.py", '"demo"'),
    NotRun("make test", _MINUTES, ".ci/run", "make test"),
    NotRun("make check", _MINUTES, ".ci/run", "make check"),
    NotRun("make setup", "fetches packages; make test does so first", "Makefile", "test: setup"),
    NotRun(". .venv/bin/activate", "changes the reader's shell, and nothing else"),
    NotRun("pip install *", "fetches packages"),
    NotRun("pre-commit install", "changes the checkout's git"),
    NotRun("*pytest tests/dataloaders", _MINUTES, ".ci/run", "make test"),
    NotRun("*pytest tests -m not gpu -x --lf", _MINUTES, ".ci/run", "make test"),
    NotRun("pytest tests/launcher/report *", _MINUTES, ".ci/run", "make test"),
    NotRun("pytest -m slow *", _MINUTES, "Makefile", "pytest -m slow"),
    NotRun(
        "GCG_PAGE=* pytest *",
        "makes the pictures of docs/ anew",
        "tests/launcher/report/test_evaluated.py",
        '"GCG_PAGE"',
    ),
    NotRun(
        "python -m benchmarks.loader *", _MINUTES, "tests/benchmarks/test_loader.py", "compare("
    ),
    NotRun("make bench", "an hour of machine time", "Makefile", "-m benchmarks"),
    NotRun("python -m benchmarks *", _MINUTES, "tests/benchmarks/test_suite.py", '"--only"'),
    NotRun(
        "python -m benchmarks.guard", "run as a test", "tests/benchmarks/test_guard.py", "measure()"
    ),
    NotRun("* mlflow ui *", "needs the whole mlflow", "tests/launcher/test_sinks.py", "mlflow"),
    NotRun("wandb sync *", "needs an account", "tests/launcher/test_sinks.py", "wandb"),
    NotRun("gcg submit *", *_JOBS, '"submit"'),
    NotRun("gcg jobs", *_JOBS, '"jobs"'),
    NotRun("gcg logs RUN", *_JOBS, '"logs"'),
    NotRun("gcg stop RUN", *_JOBS, '"stop"'),
    NotRun("ray job submit *", *_JOBS, '"job", "submit"'),
    NotRun("ray job list *", _CLUSTER),
    NotRun("export RAY_AUTH_*", _CLUSTER, "tests/launcher/test_ray_job.py", "RAY_AUTH_MODE"),
    NotRun("cluster=*", _CLUSTER),
    NotRun("base64 -d)", f"{_CLUSTER}; the end of the line before it"),
    NotRun("helm *", _CLUSTER),
    NotRun("kubectl *", _CLUSTER, "tests/kubernetes/test_manifests.py", "demo-cpu"),
    NotRun("cd kubernetes/overlays/demo-cpu", f"{_CLUSTER}; for the next line"),
    NotRun("kustomize edit set image *", "needs kustomize, and changes the checkout"),
    NotRun("docker build *", _IMAGE, "tests/docker/test_dockerfile.py", "gpu"),
    NotRun("docker push *", _IMAGE),
    NotRun("docker inspect *", _IMAGE),
    NotRun("docker run *", _IMAGE, "tests/docker/rules.py", '"doctor"'),
)


def reason(shown: Shown) -> NotRun | None:
    return next((each for each in NOT_RUN if each.covers(shown)), None)
