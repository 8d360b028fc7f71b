"""By what ending a file is taken for a video, wherever a folder or a tar is searched for them."""

from __future__ import annotations

VIDEO_SUFFIXES = (
    ".mp4", ".webm", ".mkv", ".avi", ".mov", ".m4v", ".mpeg", ".mpg", ".ts", ".m2ts", ".mts",
    ".flv", ".wmv", ".3gp", ".ogv", ".vob", ".asf",
)  # fmt: skip
# In a tar somebody named them for training: single streams and pictures that move, too.
STREAM_SUFFIXES = (".gif", ".h264", ".h265", ".hevc", ".av1", ".ivf", ".mjpeg")
