from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.ui.ask import Asker
from tests.launcher.report.conftest import MODES, make_run


@pytest.fixture(scope="session")
def runs(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    storage = tmp_path_factory.mktemp("asked")
    return {mode: make_run(packed, storage, mode) for mode in MODES}


@pytest.fixture(scope="session")
def asker(runs: dict[str, Path]) -> Iterator[Asker]:
    asker = Asker(list(runs.values()), "final", "test")
    yield asker
    asker.close()


@pytest.fixture(scope="session")
def url(asker: Asker) -> Iterator[str]:
    """Where the page is served, as the command does."""
    from werkzeug.serving import make_server

    from launcher.ui.app import build_app

    server = make_server("127.0.0.1", 0, build_app(asker, ("127.0.0.1",)), threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()
