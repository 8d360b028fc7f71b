"""The page of `gcg demo-ui`: choose or upload a clip, ask, see where each model looked.

Rendered on the server with the templates of a run's page; no script runs in the browser.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from flask import Flask, Response, request
from werkzeug.exceptions import RequestEntityTooLarge

from dataloaders.errors import DataError
from dataloaders.manifest import Question
from gcg.errors import ModelError
from launcher.errors import UserError
from launcher.report.page import environment
from launcher.ui.ask import Asked, Asker, Said

MOST_BYTES = 200_000_000
_FAULTS = (UserError, ModelError, DataError)  # what whoever asked can put right
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
        name = _name_of(request.host)
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
        try:
            return _page(asker, _asked_by_link(asker, request.args.get("clip", "")), [])
        except _FAULTS as error:
            return _page(asker, {}, [], _line(error), 400)

    @app.post("/ask")
    def ask() -> Response:
        try:
            fields = {name: request.form.get(name, "").strip() for name in ("clip", *_LONGEST)}
        except RequestEntityTooLarge:
            most = MOST_BYTES // 1_000_000
            told = (
                f"what was sent is too large: a clip has at most {most} MB, a text far less; cut it"
            )
            return _page(asker, {}, [], told, 413)
        try:
            return _page(asker, fields, _answers(asker, fields))
        except _FAULTS as error:
            return _page(asker, fields, [], _line(error), 400)

    return app


def _name_of(host: str) -> str:
    """Without its port; an IPv6 address without its brackets."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _line(error: ValueError) -> str:
    return error.lines[0] if isinstance(error, (UserError, ModelError)) else str(error)


def _asked_by_link(asker: Asker, key: str) -> dict[str, str]:
    """What a link of the page has filled in: a clip, and one of its questions."""
    if key not in asker.listed():
        return {}
    numbered = {str(n): q for n, q in enumerate(asker.record(key).questions)}
    question = numbered.get(request.args.get("question", ""))
    if question is None:
        return {"clip": key}
    options = "\n".join(question.options or ())
    return {
        "clip": key, "question": question.question, "options": options, "right": question.answer
    }  # fmt: skip


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
    clips, key = asker.listed(), fields.get("clip", "")
    questions: Sequence[Question] = ()
    if key in clips:
        with suppress(DataError):  # a clip that cannot be read has been told of
            questions = asker.record(key).questions
    html = environment(_TEMPLATES).get_template("ui.html").render(
        names=asker.names,
        clips=clips,
        fields={**dict.fromkeys(("clip", *_LONGEST), ""), **fields},
        questions=questions,
        said=said,
        error=error,
    )  # fmt: skip
    return Response(html, status, mimetype="text/html")
