"""The packed clips of the launcher's tests, for those that train here."""

from tests.launcher.conftest import packed

__all__ = ["packed"]
