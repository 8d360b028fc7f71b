"""What pyproject.toml cannot say: a wheel carries `kubernetes/` beside the code that renders it.

It cannot be a package of its own, since `kubernetes` is the name of the client library.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithManifests(build_py):
    """Copies the manifests; an editable install finds them in the checkout."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib, "launcher", "k8s", "manifests")
            shutil.copytree(Path(__file__).parent / "kubernetes", target, dirs_exist_ok=True)


setup(cmdclass={"build_py": BuildWithManifests})
