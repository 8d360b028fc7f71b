"""The clips of the tests themselves."""

from __future__ import annotations

import os

from .clips import make_clip, number_of, picture, sequential


def test_a_picture_tells_its_number():
    assert [number_of(picture(number)) for number in (0, 1, 77, 255)] == [0, 1, 77, 255]


def test_encoding_av1_leaves_the_process_as_it_was():
    before = os.sched_getscheduler(0)
    data = make_clip("libsvtav1", frames=3, options={"preset": "12"})
    assert os.sched_getscheduler(0) == before
    assert len(sequential(data)) == 3
