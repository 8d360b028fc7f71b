"""Clips of every kind that decoding is tested with: codec and settings of each."""

from __future__ import annotations

from typing import Any

import numpy as np

GOP12 = {"g": "12", "bf": "3"}


FAST_VP9 = {"g": "12", "deadline": "realtime", "cpu-used": "8"}


VFR = tuple(np.cumsum(1 + np.arange(60) % 7).tolist())


def _x264(text: str, **more: Any) -> tuple[str, dict[str, Any]]:
    return "libx264", {"options": {"x264-params": text}, **more}


def _x265(text: str, **more: Any) -> tuple[str, dict[str, Any]]:
    return "libx265", {"options": {"x265-params": text + ":log-level=none"}, **more}


# name: (codec, settings), decoded by feeding only needed packets.
PRUNED: dict[str, tuple[str, dict[str, Any]]] = {
    "h264-b-frames": ("libx264", {"options": GOP12}),
    "h264-open-gop": _x264("keyint=12:min-keyint=12:bframes=3:open-gop=1"),
    "h264-b-pyramid": _x264("keyint=25:bframes=8:b-pyramid=normal:b-adapt=0"),
    "h264-intra-refresh": _x264("intra-refresh=1:keyint=12"),
    "h264-slices": _x264("slices=4:keyint=12"),
    "h264-scaling-lists": _x264("cqm=jvt:keyint=12"),
    "h264-10-bit": ("libx264", {"options": GOP12, "pixel_format": "yuv422p10le"}),
    "h264-matroska": ("libx264", {"options": GOP12, "container": "matroska"}),
    "h264-fragmented": (
        "libx264",
        {"options": GOP12, "container_options": {"movflags": "frag_keyframe+empty_moov"}},
    ),
    "h264-negative-offsets": (
        "libx264",
        {"options": GOP12, "container_options": {"movflags": "negative_cts_offsets"}},
    ),
    "h264-vfr": ("libx264", {"options": GOP12, "stamps": VFR}),
    "h264-rotated": ("libx264", {"options": GOP12, "rotation": 90}),
    "h264-two-streams": ("libx264", {"options": GOP12, "streams": 2}),
    "h264-odd-size": ("libx264", {"options": GOP12, "size": (162, 98)}),
    "h264-one-frame": ("libx264", {"frames": 1}),
    "h264-two-frames": ("libx264", {"frames": 2}),
    "hevc-closed-gop": _x265("keyint=12:open-gop=0"),
    "hevc-open-gop": _x265("keyint=12:min-keyint=12:open-gop=1:bframes=3:scenecut=0"),
    "hevc-temporal-layers": _x265("keyint=12:temporal-layers=3:bframes=3"),
    "vp9-mp4": ("libvpx-vp9", {"options": FAST_VP9}),
    "vp9-hidden-frames": (
        "libvpx-vp9",
        {
            "container": "webm",
            "options": {
                "g": "30",
                "deadline": "good",
                "cpu-used": "5",
                "auto-alt-ref": "6",
                "lag-in-frames": "25",
                "b": "200k",
            },
        },
    ),
    "av1": ("libsvtav1", {"options": {"g": "16", "preset": "12"}}),
    "av1-forward-keys": (
        "libsvtav1",
        {"options": {"g": "16", "preset": "12", "svtav1-params": "irefresh-type=1"}},
    ),
}


# Decoded whole, since their headers or containers prove too little.
WHOLE: dict[str, tuple[str, dict[str, Any]]] = {
    "h264-interlaced": _x264("tff=1:keyint=12"),
    "h264-444": ("libx264", {"options": GOP12, "pixel_format": "yuv444p"}),
    "h264-avi": ("libx264", {"options": GOP12, "container": "avi"}),
    "h264-transport-stream": ("libx264", {"options": GOP12, "container": "mpegts"}),
    "h264-raw": ("libx264", {"options": GOP12, "container": "h264"}),
    "mpeg4-avi": ("mpeg4", {"container": "avi", "options": {"g": "12", "bf": "2"}}),
    "mpeg4-mp4": ("mpeg4", {"options": {"g": "12", "bf": "2"}}),
    "mpeg2-program-stream": (
        "mpeg2video",
        {"container": "mpeg", "options": {"g": "12", "bf": "2"}},
    ),
    "cinepak": ("cinepak", {"container": "avi", "pixel_format": "rgb24", "frames": 20}),
    "vp8-hidden-frames": (
        "libvpx",
        {"container": "webm", "options": FAST_VP9 | {"auto-alt-ref": "1", "lag-in-frames": "12"}},
    ),
    "motion-jpeg": ("mjpeg", {"container": "avi", "pixel_format": "yuvj420p", "frames": 20}),
    "gif": ("gif", {"container": "gif", "pixel_format": "rgb8", "frames": 20}),
}
