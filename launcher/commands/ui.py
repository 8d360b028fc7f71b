"""`gcg demo-ui`: ask trained models about a clip in the browser."""

from __future__ import annotations

import argparse
import logging

from launcher.commands import say
from launcher.errors import UserError

_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def add_to(stages: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    stage = stages.add_parser(
        "demo-ui",
        help="ask trained models about a clip in the browser; needs gcg-train[ui]",
        description="Serves a page on this machine: choose a clip of the split or upload one, ask, "
        "see what each model answers and where it looked. Ends with Ctrl-C.",
    )
    stage.add_argument(
        "models", nargs="+", metavar="PLACE", help="what gcg export wrote, or a run's folder or URL"
    )
    stage.add_argument(
        "--data", metavar="SHARDS", help="to choose clips from; the first run's --split"
    )
    stage.add_argument("--split", choices=["train", "val", "test"], default="test")
    stage.add_argument("--weights", choices=["final", "best", "last"], default="final")
    stage.add_argument("--host", default="127.0.0.1", help="127.0.0.1: nobody else reaches it")
    stage.add_argument("--port", type=int, default=8600, help="0: any that is free; 8600")
    stage.set_defaults(run=serve)


def serve(args: argparse.Namespace) -> int:
    try:
        from werkzeug.serving import ThreadedWSGIServer, make_server

        from launcher.ui.app import build_app
    except ModuleNotFoundError as error:
        if error.name not in ("flask", "werkzeug"):
            raise
        raise UserError(f"{error.name}: not installed; pip install 'gcg-train[ui]'") from None
    from launcher.ui.ask import Asker

    asker = Asker(args.models, args.weights, args.split, args.data)
    local = args.host in _LOOPBACK
    app = build_app(asker, _LOOPBACK if local else None)
    try:
        server = make_server(args.host, args.port, app, threaded=True)
    except (OSError, OverflowError, SystemExit) as error:
        raise UserError(
            f"--host {args.host} --port {args.port}: cannot be listened on ({error}); choose others"
        ) from None
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    name = f"[{args.host}]" if ":" in args.host else args.host
    say(f"http://{name}:{server.server_port}/  (Ctrl-C ends it)")
    if not local:
        say("whoever reaches this port can ask, upload clips and see those of the data")
    # What is being answered is answered to its end: a daemon thread that is in torch's code, be it
    # by the garbage collector, when Python ends makes the process abort.
    assert isinstance(server, ThreadedWSGIServer)
    server.daemon_threads = False
    try:
        server.serve_forever()  # returns at Ctrl-C
    finally:
        asker.close()
    return 0
