"""Whether a data set's kind, clips or features, is what the run's model reads."""

from __future__ import annotations

from collections.abc import Iterator

from dataloaders.errors import DataError
from dataloaders.feature_info import FeatureInfo
from dataloaders.feature_reader import feature_info
from dataloaders.source import Source
from gcg.build import encoder_fingerprint
from gcg.config import GCGConfig
from gcg.presets import frame_shape


def check_frames(config: GCGConfig, source: Source, setting: str) -> None:
    """Raise DataError, naming ``setting``, unless the model can read the data set's frames."""
    for problem in frame_problems(config, source, setting):
        raise DataError(problem)


def frame_problems(config: GCGConfig, source: Source, setting: str) -> Iterator[str]:
    """At most one line: what keeps a model from reading a data set's frames."""
    info = feature_info(source)
    where = f"{setting} = {source.name}"
    if info is None:
        if config.input == "features":
            yield (
                f"{where}: holds clips, and model.input is features; make features with "
                "`gcg extract`, or set model.input=video"
            )
    elif config.input == "video":
        yield f"{where}: holds features, and model.input is video; set model.input=features"
    else:
        yield from _differences(config, info, where)


def _differences(config: GCGConfig, info: FeatureInfo, where: str) -> Iterator[str]:
    if info.source is not None:  # made by `gcg extract`
        own = encoder_fingerprint(config)
        if info.encoder != own:
            yield (
                f"{where}: features of encoder {info.encoder}, the run's is {own}; run "
                "`gcg extract` with this model, or use the model that made them"
            )
            return
    if info.num_frames not in (None, config.num_frames):
        yield (
            f"{where}: features of {info.num_frames} frames a clip, and model.num_frames is "
            f"{config.num_frames}; set that to {info.num_frames}, or run `gcg extract` again"
        )
        return
    tokens, width, joint_width = frame_shape(config)
    found = {"width": (info.width, width), "embedding_width": (info.embedding_width, joint_width)}
    if tokens:
        found["tokens"] = (info.tokens, tokens)
    wrong = [f"{name} {there}, not {wanted}" for name, (there, wanted) in found.items()
             if there != wanted]  # fmt: skip
    if wrong:
        yield (
            f"{where}: its frames have {' and '.join(wrong)}; set model.features.tokens = "
            f"{info.tokens}, .width = {info.width}, .embedding_width = {info.embedding_width}"
        )
