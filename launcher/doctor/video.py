"""Decoding on the host and by NVDEC, of clips that are encoded here and now."""

from __future__ import annotations

import io
import logging
import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from launcher.doctor.finding import Finding, Options

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

_FRAMES, _SIZE, _RATE, _SECONDS = 8, 224, 15, 4
# BT.601 in another arithmetic and another bicubic filter leave 30 dB and more; a picture that is
# a frame off or shifted by a pixel falls below 25 dB on these clips.
_GOOD_DB, _LEAST_DB = 30.0, 25.0
_HOST_MATTERS = "Clips of this codec cannot be used before they are transcoded."


class _Codec(NamedTuple):
    name: str
    encoder: str
    options: dict[str, str]


_CODECS = {
    codec.name: codec
    for codec in (
        _Codec("H.264", "libx264", {"preset": "veryfast", "g": "30", "bf": "2"}),
        _Codec("HEVC", "libx265", {"preset": "ultrafast", "x265-params": "log-level=none"}),
        _Codec("VP9", "libvpx-vp9", {"deadline": "realtime", "cpu-used": "8", "g": "30"}),
        _Codec("AV1", "libsvtav1", {"preset": "12", "g": "30"}),
    )
}


def host(options: Options) -> Iterator[Finding]:
    """The decoder that every machine uses where there is no NVDEC, or it refuses a clip."""
    import av

    works, broken = [], []
    for codec in _CODECS.values():
        try:
            data = _encode(codec)
        except _NoEncoder:
            continue
        try:
            _on_host(data)
            works.append(codec.name)
        except Exception as error:  # whatever FFmpeg makes of it
            broken.append(f"{codec.name} ({' '.join(str(error).split())[:150]})")
    yield Finding(
        "host decoder",
        "failed" if broken else "ok",
        f"PyAV {av.__version__} decodes {', '.join(works)}"
        + (f"; fails on {', '.join(broken)}" if broken else ""),
        _HOST_MATTERS,
        "pip install -c constraints.txt av: its wheels bring all codecs",
    )


def nvdec(options: Options) -> Iterator[Finding]:
    """One finding a codec. A crash inside the driver leaves the codecs before it told."""
    why = "Without it the CPU decodes; docs/loading.md says what a clip costs."
    if not options.gpu:
        yield Finding(
            "nvdec", "missing", "no NVIDIA GPU here", why, "data.decoder: host needs nothing"
        )
        return
    if not _has_dali():
        yield Finding("nvdec", "missing", "DALI is not installed", why, _DALI_REMEDY)
        return
    for codec in _CODECS.values():
        yield _nvdec_codec(codec)


_DALI_REMEDY = "pip install -c constraints.txt 'gcg-train[dali]', or data.decoder: host"


def _nvdec_codec(codec: _Codec) -> Finding:
    name = f"nvdec {codec.name}"
    try:
        data = _encode(codec)
    except _NoEncoder as error:
        return Finding(
            name,
            "warning",
            f"not tried: {error}",
            "Nothing is known of it.",
            "reinstall PyAV",
        )
    frames, refusal = _on_device("mixed", [data, data])
    if refusal:
        return Finding(
            name,
            "failed" if codec.name == "H.264" else "warning",
            f"refused: {refusal}",
            "Clips of this codec are decoded by the CPU. Older GPUs have no AV1; a container needs "
            "the driver's video library.",
            "NVIDIA_DRIVER_CAPABILITIES=all (or compute,utility,video) for the container",
        )
    return _compare(name, [data, data], frames, f"decodes it on {frames[0].device}")


def sample_corpus(options: Options) -> Iterator[Finding]:
    """Clips of the sample corpus, by the device's decoder against the host's."""
    from dataloaders.moments.corpus import encode
    from dataloaders.moments.scene import make_scene

    name = "frames, DALI against host"
    if not _has_dali():
        yield Finding(
            name, "missing", "DALI is not installed", "data.decoder: dali needs it.", _DALI_REMEDY
        )
        return
    device = "mixed" if options.gpu else "cpu"
    # DALI decodes VP9 alone on a CPU. A scene's codec is drawn: enough keys for both kinds.
    scenes = [make_scene(0, f"doctor-{number}") for number in range(40)]
    wanted = [scene for scene in scenes if scene.codec == "vp9"][:2]
    if options.gpu:
        wanted += [scene for scene in scenes if scene.codec == "h264"][:4]
    clips = []
    with tempfile.TemporaryDirectory(prefix="gcg-doctor-") as folder:
        for scene in wanted:
            path = Path(folder, f"{scene.key}.mp4")
            encode(scene, path)
            clips.append(path.read_bytes())
    frames, refusal = _on_device(device, clips)
    if refusal:
        why = "The sample corpus cannot be decoded with data.decoder: dali."
        yield Finding(name, "failed", f"refused: {refusal}", why, _DALI_REMEDY)
        return
    what = f"{len(clips)} clips of the sample corpus " + (
        "(H.264, VP9) by NVDEC" if options.gpu else "(VP9) by DALI on the CPU"
    )
    yield _compare(name, clips, frames, what)


def _compare(name: str, clips: Sequence[bytes], frames: Sequence[Tensor], what: str) -> Finding:
    pairs = zip(clips, frames, strict=True)
    least = min(_psnr(decoded.cpu(), _on_host(clip)) for clip, decoded in pairs)
    return Finding(
        name,
        "ok" if least >= _GOOD_DB else "warning" if least >= _LEAST_DB else "failed",
        f"{what}; {least:.1f} dB PSNR at least against the host",
        "Runs on GPUs and on CPUs see different pictures: they cannot be compared.",
        "use data.decoder: host, and report the clip",
    )


def _psnr(one: Tensor, other: Tensor) -> float:
    """dB between two normalised (T, 3, size, size), in levels of 0 to 255."""
    import torch

    from dataloaders.transform import CLIP_STD

    levels = 255 * torch.tensor(CLIP_STD).view(1, 3, 1, 1)
    error = ((one - other) * levels).square().mean().item()
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def _on_host(data: bytes) -> Tensor:
    from dataloaders.decode import decode_frames
    from dataloaders.transform import preprocess

    return preprocess(decode_frames(data, _chosen(data)).frames, _SIZE)


def _on_device(device: Any, clips: Sequence[bytes]) -> tuple[list[Tensor], str]:
    """Frames of all clips, or why DALI refuses one."""
    from dataloaders.decode_device import DeviceDecoder

    reasons = _Listener()
    log = logging.getLogger("dataloaders.decode_device")
    log.addHandler(reasons)
    log.setLevel(logging.DEBUG)
    decoder = DeviceDecoder(device, batch_size=len(clips), num_frames=_FRAMES, size=_SIZE)
    frames = decoder.on_device(clips, [_chosen(clip) for clip in clips])
    there = [each for each in frames if each is not None]
    if len(there) < len(clips):
        return [], (reasons.lines or ["no reason given"])[-1]
    return there, ""


def _chosen(data: bytes) -> np.ndarray:
    from dataloaders.container import probe
    from dataloaders.frames import uniform_indices

    return uniform_indices(probe(data).frame_count, _FRAMES)


class _Listener(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(" ".join(record.getMessage().split())[:300])


def _has_dali() -> bool:
    from importlib.util import find_spec

    try:
        return find_spec("nvidia.dali") is not None
    except ModuleNotFoundError:
        return False


class _NoEncoder(Exception):
    pass


def _encode(codec: _Codec) -> bytes:
    """A few seconds of the sample corpus's pictures, large enough for every NVDEC."""
    import av

    from dataloaders.moments.render import frames_at
    from dataloaders.moments.scene import make_scene

    scene = replace(make_scene(0, "doctor"), width=320, height=240)
    file = io.BytesIO()
    try:
        av.Codec(codec.encoder, "w")
    except Exception:
        raise _NoEncoder(f"PyAV has no encoder {codec.encoder} here") from None
    with av.open(file, "w", format="mp4") as container:
        stream: Any = container.add_stream(
            codec.encoder, rate=Fraction(_RATE), options=codec.options
        )
        stream.width, stream.height, stream.pix_fmt = scene.width, scene.height, "yuv420p"
        for pixels in frames_at(scene, (n / _RATE for n in range(_SECONDS * _RATE))):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    return file.getvalue()
