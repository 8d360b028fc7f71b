"""Runs that answered real clips, and their page in a real browser: it asks for nothing, is
accessible, and fits a phone and paper."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from dataloaders.decode import decode_frames
from dataloaders.open_source import open_source
from launcher.cli import main
from launcher.evaluation.rows import read_rows, write_rows
from launcher.report.clips import IMAGES_BYTES, Clips, shrunk
from tests.launcher.browsing import beyond, faults
from tests.launcher.pages import check_page

# What docs show: GCG_PAGE, the page of a run, in pictures in the folder GCG_SCREENSHOTS.
SHOTS, PAGE = os.environ.get("GCG_SCREENSHOTS"), os.environ.get("GCG_PAGE")
DESKTOP, PHONE, PAPER = (1100, 1400), (375, 812), (720, 1020)
SERIOUS = ("serious", "critical")


@pytest.fixture(scope="module")
def page_file(evaluated: dict[str, Path]) -> Path:
    """A page with everything on it: examples, failures, comparisons, notes."""
    run = evaluated["uniform"]
    others = [str(evaluated[mode]) for mode in ("grounding", "oracle")]
    assert main(["report", str(run), "--against", *others, "--examples", "2"]) == 0
    return run / "report.html"


@contextmanager
def http_server() -> Iterator[tuple[str, list[str]]]:
    """Its URL, and the paths that were asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/", asked
        server.shutdown()
        thread.join()


@contextmanager
def opened(
    browser: Any, file: Path, size: tuple[int, int], scheme: str = "light"
) -> Iterator[tuple[Any, list[str]]]:
    """The page in a window of that size, and what it said to the console or asked for."""
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]}, color_scheme=scheme
    )
    page, heard = context.new_page(), []
    page.on("console", lambda message: heard.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: heard.append(f"error: {error}"))
    page.on("request", lambda asked: heard.append(f"request: {asked.url[:60]}"))
    page.goto(file.resolve().as_uri())
    yield page, heard
    context.close()


def test_rows_hold_what_was_asked_seen_and_answered(evaluated: dict[str, Path]) -> None:
    for mode, run in evaluated.items():
        found = read_rows(run, "test")
        assert found is not None
        assert (found.header.mode, found.header.step, found.header.weights) == (mode, 0, "final")
        assert len(found.rows) == found.header.questions > 10
        for row in found.asked:
            assert row["options"][row["scores"].index(max(row["scores"]))] == row["predicted"]
            assert len(row["moments"]) == 2  # the split is labelled
            assert len(row["centers"]) == (0 if mode == "uniform" else 2)
            assert row["times"] == sorted(row["times"])
            if mode == "oracle":
                assert row["selected"] == row["moments"]


def test_film_strips_are_shown_and_bounded(page_file: Path) -> None:
    html = page_file.read_text(encoding="utf-8")
    page = check_page(html)
    assert page.images == (2 + 2 + 2 + 2) * 8  # three kinds of examples and the failures
    assert "film strip" not in page.text.replace("Without film strips", "")
    assert len(html) < IMAGES_BYTES


def test_images_fit_their_room(packed: Path) -> None:
    with open_source(packed / "test") as source:
        sample = source.read(0, source.entries(0)[0])
        frames = decode_frames(sample.video_bytes, range(8)).frames
    best = shrunk(frames, 1_000_000)
    assert best is not None
    room = sum(map(len, best)) - 1
    smaller = shrunk(frames, room)
    assert smaller is not None
    assert sum(map(len, smaller)) <= room
    assert shrunk(frames, 1000) is None


def test_film_strips_share_a_budget(packed: Path) -> None:
    with open_source(packed / "test") as source:
        videos = [source.read_record(0, entry).id for entry in source.entries(0)]
        alone = Clips(source, 8, 1)
        alone.find({videos[0]})
        best = sum(map(len, alone.film_strip(videos[0]).images))
        many = Clips(source, 8, 1000, budget=3 * best)
        many.find({videos[0]})
        sizes = [sum(map(len, many.film_strip(videos[0], 2).images)) for _ in range(9)]
        assert 0 < sizes[0] < best  # smaller, but there
        assert sizes[-1] == 0  # until the budget is spent
        assert 2 * sum(sizes) <= 3 * best
        assert many.film_strip(videos[0], 2).why == "no room was left on the page for its frames"


def test_clips_under_keys_that_others_gave_them(packed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir()
    videos = []
    with open_source(packed / "test") as source, tarfile.open(folder / "0.tar", "w") as tar:
        for entry in source.entries(0):
            sample = source.read(0, entry)
            record = sample.record.model_dump_json().encode()
            for suffix, data in (("mp4", sample.video_bytes), ("json", record)):
                member = tarfile.TarInfo(f"{len(videos):05d}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
            videos.append(sample.record.id)
    assert main(["index", str(folder)]) == 0
    with open_source(folder) as source:
        clips = Clips(source, 8, 2)
        clips.find({videos[-1], "none"})
        assert len(clips.film_strip(videos[-1]).images) == 8
        assert clips.film_strip("none").why == "the clip is not in the data set"


def test_clips_that_are_others_are_not_shown(evaluated: dict[str, Path], tmp_path: Path) -> None:
    run = shutil.copytree(evaluated["grounding"], tmp_path / "run")
    found = read_rows(run, "test")
    assert found is not None
    header = found.header.model_copy(update={"fingerprint": "f"})
    write_rows(run, header, json.loads(json.dumps(found.rows)))
    assert main(["report", str(run)]) == 0
    page = check_page((run / "report.html").read_text(encoding="utf-8"))
    assert "holds other clips than those that were asked about" in page.text
    assert page.images == 0


@pytest.mark.parametrize(("size", "scheme"), [(DESKTOP, "light"), (PHONE, "dark")])
def test_it_is_whole_quiet_and_accessible(
    browser: Any, page_file: Path, size: tuple[int, int], scheme: str
) -> None:
    with opened(browser, page_file, size, scheme) as (page, heard):
        assert [each for each in heard if "request: data:" not in each] == [
            f"request: {page_file.as_uri()}"[:69]
        ]
        assert page.evaluate("[...document.images].every(each => each.naturalWidth > 0)")
        assert page.evaluate("document.images.length") > 0
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert beyond(page) == []
        for link in page.locator("nav a").all():
            assert page.locator(link.get_attribute("href")).count() == 1
        assert faults(page) == {}


def test_axe_finds_what_is_wrong(browser: Any, page_file: Path) -> None:
    with opened(browser, page_file, DESKTOP) as (page, _):
        page.evaluate("document.images[0].closest('[aria-hidden]').removeAttribute('aria-hidden')")
        page.evaluate("document.images[0].removeAttribute('alt')")
        page.evaluate("document.querySelector('h2').style.color = '#ccc'")
        found = faults(page)
        assert found["image-alt"] in SERIOUS
        assert found["color-contrast"] in SERIOUS


def test_whatever_it_were_made_to_ask_for_is_refused(browser: Any, page_file: Path) -> None:
    """The page's policy, tried with an image, a style, a script and a request put into it."""
    with http_server() as (url, asked), opened(browser, page_file, DESKTOP) as (page, _):
        put_in = """async ([url, times]) => {
            const refused = [];
            document.addEventListener('securitypolicyviolation',
                each => refused.push(each.effectiveDirective));
            for (const [tag, name] of [['img', 'src'], ['link', 'href'], ['script', 'src']]) {
                const each = document.createElement(tag);
                if (tag === 'link') each.rel = 'stylesheet';
                each[name] = url + tag;
                const over = new Promise(done => { each.onload = each.onerror = done; });
                document.body.append(each);
                await over;
            }
            await fetch(url + 'fetch', {mode: 'no-cors'}).catch(() => null);
            for (let k = 0; k < 100 && refused.length < times; k++)
                await new Promise(requestAnimationFrame);
            return refused;
        }"""
        assert page.evaluate(put_in, [url, 4]) == [
            "img-src", "style-src-elem", "script-src-elem", "connect-src"
        ]  # fmt: skip
        assert asked == []
        page.context.new_page().evaluate(put_in, [url, 0])  # one without a policy
        assert asked == ["/img", "/link", "/script", "/fetch"]


def test_it_fits_paper(browser: Any, page_file: Path) -> None:
    with opened(browser, page_file, PAPER, "dark") as (page, _):
        page.emulate_media(media="print")
        assert beyond(page) == []
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == (
            "rgb(255, 255, 255)"
        )
        printed = page.pdf(format="A4", margin=dict.fromkeys(["left", "right"], "10mm"))
        assert printed.startswith(b"%PDF-")
        assert 3 <= len(re.findall(rb"/Type\s*/Page\b", printed)) <= 20


@pytest.mark.slow
def test_pictures_of_it(browser: Any, page_file: Path, tmp_path: Path) -> None:
    """Of the page that GCG_PAGE names into GCG_SCREENSHOTS, for docs; else of this one."""
    file, folder = Path(PAGE or page_file), Path(SHOTS or tmp_path)
    with opened(browser, file, DESKTOP) as (page, _):
        page.locator("#answers").screenshot(path=folder / "report-answers.png")
        page.locator("#examples article").first.screenshot(path=folder / "report-example.png")
        page.locator("#failures article").first.screenshot(path=folder / "report-failure.png")
    with opened(browser, file, PHONE, "dark") as (page, _):
        page.evaluate("document.querySelector('#examples article').scrollIntoView()")
        page.screenshot(path=folder / "report-phone.png")
    for picture, most in (("answers", 300), ("example", 300), ("failure", 300), ("phone", 150)):
        size = (folder / f"report-{picture}.png").stat().st_size
        assert 5_000 < size < 1000 * most, picture
