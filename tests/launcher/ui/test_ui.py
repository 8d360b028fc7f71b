"""Asking trained runs about a clip, through the page that `gcg demo-ui` serves."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataloaders.manifest import read_manifest
from launcher.cli import main
from launcher.errors import UserError
from launcher.evaluation.rows import read_rows
from launcher.ui.app import MOST_BYTES, build_app
from launcher.ui.ask import Asked, Asker
from tests.launcher.browsing import beyond, faults


@pytest.fixture
def client(asker: Asker) -> Any:
    return build_app(asker, ("localhost",)).test_client()


@pytest.fixture(scope="session")
def clip(packed: Path) -> Path:
    video = next(iter(read_manifest(packed / "raw" / "test.jsonl")))
    return packed / "raw" / video.path


def text_of(response: Any) -> str:
    plain = re.sub(r"(?s)<style>.*?</style>|<[^>]*>", " ", response.get_data(as_text=True))
    return " ".join(plain.split())


def test_the_answers_are_those_of_an_evaluation(asker: Asker, runs: dict[str, Path]) -> None:
    assert main(["eval", *map(str, runs.values()), "--split", "test"]) == 0
    key = next(iter(asker.listed()))
    record, data, name = asker.read(key)
    question = record.questions[0]
    assert question.options is not None
    asked = Asked(question.question, tuple(question.options), question.answer)
    for said in asker.ask(data, name, asked, record):
        assert said.example is not None
        rows = read_rows(runs[said.name], "test")
        assert rows is not None
        (row,) = [r for r in rows.asked
                  if (r["video"], r["question"]) == (record.id, question.id)]  # fmt: skip
        answered = json.loads(json.dumps(said.example["row"]))
        for figure in ("predicted", "choice", "answer", "answer_index", "correct", "selected"):
            assert answered[figure] == row[figure], figure
        assert answered["moments"] == row["moments"] is not None
        for figure in ("type", "text", "options"):
            assert answered[figure] == row[figure], figure
        # Those of an evaluation are rounded; a batch of one clip is padded less: sums have another
        # order.
        for figure in ("times", "weights", "centers", "span"):
            assert answered[figure] == pytest.approx(row[figure], abs=1e-3), figure
        assert np.ravel(answered["gold"]) == pytest.approx(np.ravel(row["gold"]), abs=1e-3)
        assert row["scores"] is not None
        among = np.exp(row["scores"]) / np.exp(row["scores"]).sum()
        assert np.exp(answered["scores"]) == pytest.approx(among, abs=1e-2)
        assert said.example["frames"][0]["image"].startswith("data:image/jpeg;base64,")


def test_without_the_right_answer_the_oracle_says_nothing(asker: Asker, clip: Path) -> None:
    said = {each.name: each for each in asker.ask(clip.read_bytes(), clip.name, Asked("What?"))}
    assert said["oracle"].example is None
    assert "say which that is" in said["oracle"].why
    grounding = said["grounding"].example
    assert grounding is not None
    assert grounding["row"]["answer"] == ""
    assert grounding["row"]["moments"] is None


def test_an_upload_is_asked_about(client: Any, clip: Path) -> None:
    form = {"question": "Which <object> moves?", "options": "one\r\n\r\n two", "clip": ""}
    response = client.post("/ask", data={**form, "upload": (clip.open("rb"), "a.mp4")})
    assert response.status_code == 200
    assert "Which &lt;object&gt; moves?" in response.get_data(as_text=True)
    assert "grounding: one" in text_of(response) or "grounding: two" in text_of(response)
    assert response.get_data(as_text=True).count('<article class="example">') == 3


@pytest.mark.parametrize(
    ("form", "says"),
    [
        ({"question": ""}, "question: is empty"),
        ({"question": "x" * 501}, "question: 501 characters: at most 500"),
        ({"question": "What?"}, "clip: none; choose one"),
        ({"question": "What?", "clip": "../x"}, "clip: &#39;../x&#39;: there is none"),
        ({"question": "What?", "options": "a", "upload": b"x"}, "options: 1: give two or more"),
        (
            {"question": "What?", "options": "a\nb", "right": "c", "upload": b"x"},
            "is none of the options",
        ),
        ({"question": "What?", "upload": b"no video"}, "clip.mp4: "),
        ({"question": "What?", "upload": b""}, "clip.mp4: "),
    ],
)
def test_bad_input_is_told_and_what_was_typed_stays(
    client: Any, form: dict[str, Any], says: str
) -> None:
    data = dict(form)
    if "upload" in data:
        data["upload"] = (io.BytesIO(data["upload"]), "clip.mp4")
    response = client.post("/ask", data=data, content_type="multipart/form-data")
    assert response.status_code == 400
    assert says in text_of(response)
    assert f'value="{form["question"]}"' in response.get_data(as_text=True)


def test_an_answer_that_says_nothing(client: Any, clip: Path) -> None:
    data = {"question": "?!", "right": "...", "upload": (clip.open("rb"), f"a.{'m' * 400}")}
    response = client.post("/ask", data=data)
    assert response.status_code == 400
    assert "neither may be empty" in text_of(response)


@pytest.mark.parametrize(
    "query", ["clip=../x&question=0", "question=0", f"clip=KEY&question={'9' * 5000}",
              "clip=KEY&question=-1", "clip=KEY&question=%C2%B2", "clip=KEY"],
)  # fmt: skip
def test_a_link_that_leads_nowhere_fills_nothing_in(client: Any, asker: Asker, query: str) -> None:
    response = client.get("/?" + query.replace("KEY", asker.listed()[0]))
    assert response.status_code == 200
    assert 'id="question" name="question" value=""' in response.get_data(as_text=True)


def test_a_damaged_clip_of_the_data_is_told_of(
    runs: dict[str, Path], packed: Path, tmp_path: Path
) -> None:
    data = shutil.copytree(packed / "test", tmp_path / "data")
    for file in data.glob("*.tar"):
        file.write_bytes(bytes(file.stat().st_size))
    asker = Asker([runs["uniform"]], "final", "test", str(data))
    client = build_app(asker, None).test_client()
    key = asker.listed()[0]
    assert client.get("/", query_string={"clip": key}).status_code in (200, 400)
    asked = client.post("/ask", data={"clip": key, "question": "What?"})
    assert asked.status_code == 400
    assert "run `gcg pack` again" in text_of(asked), text_of(asked)


def test_models_that_were_exported(
    runs: dict[str, Path], packed: Path, tmp_path: Path, clip: Path
) -> None:
    """They have no data: clips are those of --data, or uploads. One answers as its run does."""
    model = tmp_path / "model"
    assert main(["export", str(runs["grounding"]), "--to", str(model)]) == 0
    alone = Asker([model], "final", "test")
    assert alone.names == ["grounding"]
    assert alone.listed() == []
    beside = Asker([model, runs["grounding"]], "final", "test", str(packed / "val"))
    assert beside.names == ["model", "grounding"]
    assert beside.listed() == ["moments-0-00014"]
    asked = Asked("What moves?", ("a circle", "a square"), "a circle")
    one, other = beside.ask(clip.read_bytes(), "a.mp4", asked)
    assert one.example is not None
    assert other.example is not None
    assert one.example["row"] == other.example["row"]


def test_an_upload_that_is_a_playlist_opens_nothing(client: Any, clip: Path) -> None:
    lists = {
        "a.m3u8": f"#EXTM3U\n#EXTINF:1,\n{clip}\n#EXT-X-ENDLIST\n",
        "a.txt": f"ffconcat version 1.0\nfile '{clip}'\n",
    }
    for name, text in lists.items():
        data = {"question": "What?", "upload": (io.BytesIO(text.encode()), name)}
        response = client.post("/ask", data=data)
        assert response.status_code == 400
        assert f"{name}: " in text_of(response)


def test_an_upload_that_is_too_large(asker: Asker) -> None:
    app = build_app(asker, None)
    app.config["MAX_CONTENT_LENGTH"] = 1000
    data = {"question": "What?", "upload": (io.BytesIO(bytes(2000)), "clip.mp4")}
    response = app.test_client().post("/ask", data=data)
    assert response.status_code == 413
    assert "a clip has at most 200 MB" in text_of(response)
    app.config["MAX_CONTENT_LENGTH"] = MOST_BYTES
    head = b'--b\r\nContent-Disposition: form-data; name="question"\r\n\r\n'
    body, kind = head + bytes(1_000_000) + b"\r\n--b--\r\n", "multipart/form-data; boundary=b"
    response = app.test_client().post("/ask", data=body, content_type=kind)
    assert response.status_code == 413
    assert "a text far less" in text_of(response)


def test_other_sites_get_nothing(client: Any) -> None:
    assert client.get("/", headers={"Host": "attacker.example"}).status_code == 403
    assert client.get("/", headers={"Host": "localhost:8600"}).status_code == 200
    for host in ("[::1", "", "localhost.attacker.example"):
        assert client.get("/", headers={"Host": host}).status_code == 403
    for site, status in (("cross-site", 403), ("same-site", 403), ("same-origin", 200)):
        assert client.get("/", headers={"Sec-Fetch-Site": site}).status_code == status
    assert "default-src 'none'" in client.get("/").headers["Content-Security-Policy"]


def test_what_cannot_be_asked_is_refused(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match=re.escape(str(tmp_path))):
        Asker([tmp_path], "final", "test")
    with pytest.raises(UserError, match="not there yet"):
        Asker([runs["uniform"]], "best", "test")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["demo-ui", str(runs["uniform"]), "--port", port]) == 2
    assert f"--port {port}: cannot be listened on" in capsys.readouterr().err


def ask_in(page: Any, clip: int) -> str:
    """Choose a clip by its number, take the first of its questions, ask it."""
    page.select_option("select", index=clip)
    page.click("text=Choose")
    page.locator("main ul a").first.click()
    question = page.input_value("#question")
    assert question.endswith("?")
    page.click("#ask button")
    return question


def test_in_a_browser(browser: Any, url: str, asker: Asker) -> None:
    """Choose a clip, take one of its questions, ask; on a phone, and what axe says of it."""
    page = browser.new_page(viewport={"width": 375, "height": 812})
    heard: list[str] = []
    page.on("console", lambda message: heard.append(message.text))
    page.on("pageerror", lambda error: heard.append(str(error)))
    page.goto(url)
    assert faults(page) == {}
    question = ask_in(page, len(asker.listed()) - 1)
    assert page.locator("#answers h2").inner_text() == question
    assert page.locator("article.example").count() == 3
    assert page.evaluate("[...document.images].every(each => each.naturalWidth > 0)")
    assert page.locator("article img").count() == 3 * 8
    assert beyond(page) == []
    assert faults(page) == {}
    assert heard == []
    page.close()


@pytest.mark.slow
def test_picture_of_it(browser: Any, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Of the `gcg demo-ui` that GCG_UI names into GCG_SCREENSHOTS, for docs; else of this one."""
    file = Path(os.environ.get("GCG_SCREENSHOTS", tmp_path)) / "demo-ui.png"
    page = browser.new_page(viewport={"width": 760, "height": 1180})
    page.goto(os.environ.get("GCG_UI") or request.getfixturevalue("url"))
    ask_in(page, 1)
    page.screenshot(path=file)
    page.close()
    assert 5_000 < file.stat().st_size < 300_000
