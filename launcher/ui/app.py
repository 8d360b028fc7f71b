"""The page of `gcg demo-ui`: choose or upload a clip, ask, see where each run looked.

Rendered on the server with the templates of a run's page; no script runs in the browser.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from flask import Flask, Response, request
from werkzeug.exceptions import RequestEntityTooLarge

from dataloaders.errors import DataError
from launcher.errors import UserError
from launcher.report.page import environment
from launcher.ui.ask import Asked, Asker, Said

MOST_BYTES = 200_000_000
_LONGEST = {"question": 500, "options": 2000, "right": 200}
_TEMPLATES = Path(__file__).with_name("templates")
_POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)


def build_app(asker: Asker, hosts: Collection[str] | None) -> Flask:
    """The application.

    Args:
        hosts: names that it answers to, so that no other site's name can be pointed at this
            machine (DNS rebinding); None: any.
    """
    app = Flask(__name__, static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = MOST_BYTES

    @app.before_request
    def only_this_page() -> Response | None:
        name = request.host.rpartition(":")[0] if ":" in request.host else request.host
        if hosts is not None and name not in hosts:
            return Response(f"{name}: not a name of this page", 403)
        if request.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
            return Response("asked by another site", 403)
        return None

    @app.after_request
    def forbid_the_rest(response: Response) -> Response:
        response.headers["Content-Security-Policy"] = _POLICY
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        return response

    @app.get("/")
    def form() -> Response:
        return _page(asker, _asked_by_link(asker), [])

    @app.post("/ask")
    def ask() -> Response:
        try:
            fields = {name: request.form.get(name, "").strip() for name in ("clip", *_LONGEST)}
        except RequestEntityTooLarge:
            told = f"the upload is larger than {MOST_BYTES // 1_000_000} MB; cut the clip"
            return _page(asker, {}, [], told, 413)
        try:
            return _page(asker, fields, _answers(asker, fields))
        except UserError as error:
            return _page(asker, fields, [], error.lines[0], 400)
        except DataError as error:
            return _page(asker, fields, [], str(error), 400)

    return app


def _asked_by_link(asker: Asker) -> dict[str, str]:
    """What a link of the page has filled in: a clip, and one of its questions."""
    key, number = request.args.get("clip", ""), request.args.get("question", "")
    fields = {"clip": key if key in asker.listed() else ""}
    if fields["clip"] and number.isdecimal():
        questions = asker.read(key)[0].questions
        if int(number) < len(questions):
            question = questions[int(number)]
            fields |= {
                "question": question.question,
                "options": "\n".join(question.options or ()),
                "right": question.answer,
            }
    return fields


def _answers(asker: Asker, fields: dict[str, str]) -> list[Said]:
    for name, longest in _LONGEST.items():
        if len(fields[name]) > longest:
            raise UserError(
                f"{name}: {len(fields[name])} characters: at most {longest}; shorten it"
            )
    if not fields["question"]:
        raise UserError("question: is empty; ask something")
    options = tuple(line.strip() for line in fields["options"].splitlines() if line.strip())
    asked = Asked(fields["question"], options, fields["right"])
    upload = request.files.get("upload")
    if upload is not None and upload.filename:
        return asker.ask(upload.read(), upload.filename, asked)
    if not fields["clip"]:
        raise UserError("clip: none; choose one of the list or upload a file")
    record, clip, name = asker.read(fields["clip"])
    return asker.ask(clip, name, asked, record)


def _page(
    asker: Asker, fields: dict[str, str], said: list[Said], error: str = "", status: int = 200
) -> Response:
    known: Any = asker.read(fields["clip"])[0] if fields.get("clip") in asker.listed() else None
    html = environment(_TEMPLATES).get_template("ui.html").render(
        names=asker.names,
        clips=list(asker.listed()),
        fields={**dict.fromkeys(("clip", *_LONGEST), ""), **fields},
        questions=[] if known is None else known.questions,
        said=said,
        error=error,
    )  # fmt: skip
    return Response(html, status, mimetype="text/html")
