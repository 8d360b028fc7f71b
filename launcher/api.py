"""The commands as functions, for a notebook or a program of one's own.

    from launcher.api import evaluate, export, predict, train

Errors that a caller can put right are ``ValueError`` with a line for each fault
(:class:`launcher.errors.UserError`, :class:`gcg.errors.ModelError`,
:class:`dataloaders.errors.DataError`). Nothing here writes to the terminal: progress is logged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from gcg.config import Mode
    from gcg.model import GCGModel
    from gcg.processor import GCGProcessor
    from gcg.saved import Parts
    from launcher.config import RunConfig
    from launcher.evaluation.evaluate import Split
    from launcher.export.run import TrainedRun, Weights
    from launcher.predict.predictor import Predictor, Said

Place = str | Path


def train(
    config: RunConfig | Mapping[str, Any] | Place,
    overrides: Sequence[str] = (),
    *,
    dry_run: bool = False,
) -> TrainedRun | None:
    """Bring a run to its end, from where it was: what `gcg train` does.

    Args:
        config: a run file's path, its tree as a mapping, or what was parsed of it.
        overrides: ``section.key=value`` each, for a run file.
        dry_run: check everything, start and write nothing, return None.

    Returns:
        The run; its ``model()`` is the trained one, ``folder`` its folder.

    Raises:
        UserError: with all that is to be put right, before a worker starts; or why it stopped.
    """
    from launcher.config import RunConfig, load_run_config, parse_run_config
    from launcher.errors import UserError
    from launcher.export.run import open_run
    from launcher.train import train as run
    from launcher.train import with_absolute_paths

    if isinstance(config, (str, Path)):
        parsed = load_run_config(Path(config), overrides)
    elif overrides:
        raise UserError("overrides: change a run file's values; change the mapping instead")
    else:
        parsed = config if isinstance(config, RunConfig) else parse_run_config(dict(config))
    run(parsed, dry_run=dry_run)
    return None if dry_run else open_run(with_absolute_paths(parsed).folder)


def evaluate(
    runs: Place | Sequence[Place], split: Split = "val", weights: Weights = "final"
) -> dict[str, dict[str, Any]]:
    """Score trained runs on the same split: what `gcg eval` does, in this process.

    Args:
        runs: a run's folder or URL, or several.
        split: of each run's own data.
        weights: ``final``, ``best`` or ``last``.

    Returns:
        Figures by the run's mode (:func:`launcher.evaluation.names.named`): shares in [0, 1] as
        :func:`launcher.evaluation.scores.summarise` describes them, ``accuracy``, ``miop``, ....

    Raises:
        UserError: with a line for each run that cannot be evaluated.
    """
    from launcher.evaluation.compare import evaluate_runs
    from launcher.storage.places import run_place

    several = [runs] if isinstance(runs, (str, Path)) else list(runs)
    return evaluate_runs([run_place(run) for run in several], split, weights)


def load(
    place: Place, *, weights: Weights = "final", device: torch.device | str = "cpu"
) -> tuple[GCGModel, GCGProcessor]:
    """The model and the processor of a run, an exported folder or a hub name.

    ``weights``: of a run, which. Raises ModelError or UserError where there is none.
    """
    from launcher.predict.predictor import load_model

    return load_model(place, weights, device)


def predict(
    model: Place | Predictor,
    video: Place,
    question: str | Sequence[str],
    options: Sequence[str] | Sequence[Sequence[str] | None] | None = None,
    *,
    mode: Mode | None = None,
    answers: str | Sequence[str] | None = None,
    keep_frames: bool = False,
) -> list[Said]:
    """Ask questions about one video, which is decoded once.

    Args:
        model: a place, as for :func:`load`; or a predictor, which is not loaded anew each time.
        video: a file.
        question: one, or several.
        options: of one question a list of texts, of several a list of those; None: open.
        mode: with a place: ``grounding``, ``uniform`` or ``oracle``; None: as trained.
        answers: the right one, or one a question, which mode ``oracle`` peeks at.
        keep_frames: let ``clip.frames`` hold the T frames, uint8 (H, W, 3) each.

    Returns:
        One :class:`launcher.predict.predictor.Said` a question: ``prediction`` has the answer, its
        confidence, the frames' weights (T,), the K chosen frames and the span in seconds;
        ``clip.times`` the frames' seconds.

    Raises:
        DataError: the video cannot be read.
        ModelError: there is no such model, the options or answers do not fit the questions, or
            ``mode`` is given with a predictor, which has its own.
    """
    from gcg.errors import ModelError
    from gcg.processor import queries
    from launcher.predict.clips import ClipReader
    from launcher.predict.predictor import Asked, Predictor

    asked = queries(question, options)
    right = [answers] if isinstance(answers, str) else answers or [None] * len(asked)
    if len(right) != len(asked):
        raise ModelError(f"answers: {len(right)} for {len(asked)} questions; give one each")
    if mode is not None and isinstance(model, Predictor):
        raise ModelError(f"mode = {mode}: the predictor asks in mode {model.mode}; leave it out")
    own = model if isinstance(model, Predictor) else Predictor.load(model, mode=mode)
    reader = ClipReader(own.processor, keep_frames=keep_frames)
    try:
        clip = reader(Path(video))
    finally:
        reader.close()
    return own([clip], [[Asked(q, a) for q, a in zip(asked, right, strict=True)]])


def export(
    run: Place | TrainedRun,
    to: Place,
    parts: Parts = "trained",
    *,
    weights: Weights = "final",
    dtype: str = "keep",
) -> Path:
    """Write a run's model into a new folder: what `gcg export` does. Returns the folder.

    Raises:
        UserError: there is no run, or the folder is taken.
        ModelError: a frozen part is not to be had.
    """
    from launcher.export.folder import export as write
    from launcher.export.folder import plan_export
    from launcher.export.run import TrainedRun, open_run
    from launcher.storage.places import run_place

    opened = run if isinstance(run, TrainedRun) else open_run(run_place(run), weights)
    write(plan_export(opened, to, parts, dtype))
    return Path(to)
