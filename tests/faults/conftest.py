"""The packed clips of the launcher's tests, for those that train here."""

from tests.launcher.conftest import packed
from tests.launcher.test_kill_resume import commands

__all__ = ["commands", "packed"]
