from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.frame import PictureType

from dataloaders.errors import DataError
from dataloaders.manifest import read_manifest
from dataloaders.moments.corpus import encode, make_corpus
from dataloaders.moments.questions import BALANCED, NUM_OPTIONS, UNBALANCED, ask
from dataloaders.moments.render import frames_at
from dataloaders.moments.scene import ACTIONS, KINDS, Event, Scene, make_scene
from dataloaders.moments.sprites import mask

SCENES = [make_scene(3, f"s{i}") for i in range(120)]


def test_scenes_depend_on_seed_and_key_alone() -> None:
    assert make_scene(3, "s7") == SCENES[7]
    assert make_scene(4, "s7") != SCENES[7]
    assert len({scene.events for scene in SCENES}) == len(SCENES)


def test_events_follow_each_other_inside_the_clip() -> None:
    for scene in SCENES:
        assert 8 <= scene.duration <= 24
        ends = [0.0] + [event.end for event in scene.events]
        for event, earlier in zip(scene.events, ends, strict=False):
            assert earlier <= event.start < event.end <= scene.duration
        actors = [event.actor for event in scene.events]
        assert len(set(actors)) == len(actors)


def test_an_event_holds_about_as_many_sampled_frames_as_there_are_moments() -> None:
    shares = [(e.end - e.start) / s.duration for s in SCENES for e in s.events if not e.is_long]
    assert 32 * min(shares) > 3
    assert 32 * max(shares) < 6
    longs = [(e.end - e.start) / s.duration for s in SCENES for e in s.events if e.is_long]
    assert longs
    assert 32 * min(longs) > 9


def test_the_mix_has_what_it_promises() -> None:
    codecs = Counter(scene.codec for scene in SCENES)
    assert codecs["h264"] > codecs["vp9"] > 0
    assert len({(scene.width, scene.height) for scene in SCENES}) >= 4
    kinds = Counter(q.type for scene in SCENES for q in ask(scene, 16, "train"))
    assert set(kinds) == {*BALANCED, *UNBALANCED}
    assert sum(kinds[kind] for kind in UNBALANCED) < sum(kinds[kind] for kind in BALANCED) / 4


def test_questions_have_one_right_answer_and_hard_wrong_ones() -> None:
    from_the_clip = total = 0
    for scene in SCENES:
        shown = {e.sentence for e in scene.events} | {e.actor for e in scene.events}
        shown |= {e.action for e in scene.events}
        for question in ask(scene, 30, "train"):
            assert question.options is not None
            assert question.answer_index is not None
            assert len(set(question.options)) == NUM_OPTIONS
            assert question.options[question.answer_index] == question.answer
            wrong = [text for text in question.options if text != question.answer]
            from_the_clip += sum(text in shown for text in wrong)
            total += len(wrong)
            ((start, end),) = question.spans or [(0.0, 0.0)]
            assert question.answer in _truth(scene, start, end)
    assert from_the_clip / total > 0.8


def _truth(scene: Scene, start: float, end: float) -> tuple[str, ...]:
    (event,) = [e for e in scene.events if (e.start, e.end) == (start, end)]
    return event.actor, event.action, event.sentence


def test_neighbour_questions_name_the_neighbour() -> None:
    for scene in SCENES:
        place = {event.sentence: i for i, event in enumerate(scene.events)}
        for question in ask(scene, 30, "train"):
            side = question.type.split("_")[0]
            if side not in ("after", "before"):
                continue
            asked = next(s for s in place if s in question.question)
            step = place[question.answer] - place[asked]
            assert step == (1 if side == "after" else -1)
            if question.type in UNBALANCED:
                assert scene.events[place[asked]].is_long
                assert not scene.events[place[question.answer]].is_long


@pytest.mark.parametrize("kind", KINDS)
def test_sprites_are_different_shapes(kind: str) -> None:
    shape = mask(kind, 12)
    assert 0.1 < shape.mean() < 0.9
    assert all(np.abs(shape - mask(other, 12)).mean() > 0.03 for other in KINDS if other != kind)


def test_every_action_shows_in_a_single_frame() -> None:
    scene = replace(SCENES[0], events=())
    pictures = {}
    for action in (None, *ACTIONS):
        events = () if action is None else (Event("red", "star", action, 1.0, 3.0),)
        (pictures[action],) = frames_at(replace(scene, events=events), [2.2])
    for one in pictures:
        for other in pictures:
            if one != other:
                difference = np.abs(pictures[one].astype(int) - pictures[other]).max()
                assert difference > 60, (one, other)


@pytest.mark.parametrize("codec", ["h264", "vp9"])
def test_clips_are_encoded_as_they_say(codec: str, tmp_path: Path) -> None:
    scene = replace(next(s for s in SCENES if s.frame_rate == 10), codec=codec)
    one, two = tmp_path / "one.mp4", tmp_path / "two.mp4"
    encode(scene, one)
    encode(scene, two)
    assert one.read_bytes() == two.read_bytes()
    with av.open(str(one)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == codec
        assert (stream.width, stream.height) == (scene.width, scene.height)
        decoded = list(container.decode(stream))
        assert len(decoded) == scene.num_frames
        if codec == "h264":
            assert {PictureType(f.pict_type).name for f in decoded} >= set("IPB")


def test_corpus_is_deterministic_resumable_and_split_by_video(tmp_path: Path) -> None:
    one = make_corpus(tmp_path / "a", seed=5, num_videos=6, questions_per_video=3)
    clip = tmp_path / "a" / "videos" / "moments-5-00002.mp4"
    whole = clip.read_bytes()
    clip.unlink()
    seen: list[str] = []
    again = make_corpus(
        tmp_path / "a", seed=5, num_videos=6, questions_per_video=3, on_clip=seen.append
    )
    assert clip.read_bytes() == whole
    assert len(seen) == 6
    assert not list(clip.parent.glob("*.part"))
    assert one == again
    ids = {split: {video.id for video in read_manifest(path)} for split, path in one.items()}
    assert all(ids.values())
    assert sum(map(len, ids.values())) == len(set().union(*ids.values())) == 6
    for split, path in one.items():
        for video in read_manifest(path):
            assert (path.parent / video.path).is_file()
            assert all(q.split == split and q.spans for q in video.questions)


def test_another_recipe_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "corpus.json").write_text(json.dumps({"seed": 1}))
    with pytest.raises(DataError, match="another folder"):
        make_corpus(tmp_path, seed=2, num_videos=3)


@pytest.mark.parametrize(("videos", "questions"), [(2, 4), (0, 4), (5, 0)])
def test_sizes_that_make_no_corpus_are_refused(tmp_path: Path, videos: int, questions: int) -> None:
    with pytest.raises(DataError, match="at least 3 videos"):
        make_corpus(tmp_path, num_videos=videos, questions_per_video=questions)
