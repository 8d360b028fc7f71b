"""The command `gcg label`: from its arguments to label sets, or to a comparison of strategies."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

from dataloaders.location import is_url, last_part
from dataloaders.open_source import open_source
from dataloaders.storage.options import StorageOptions
from gcg.config import GCGConfig
from gcg.labels import Strategy, parse_strategy
from launcher.errors import UserError
from launcher.labelling.compare import compare_labels
from launcher.labelling.describe import make_writer
from launcher.labelling.label import label_data
from launcher.labelling.report import check_plot, comparison_table, write_comparison


def run_label(
    args: argparse.Namespace,
    model: GCGConfig,
    storage: StorageOptions,
    say: Callable[[str], object],
) -> None:
    """Label every data folder, or compare the strategies on it. Raises UserError and DataError."""
    strategies = _strategies(args)
    if args.compare:
        return _compare(args, model, storage, strategies, say)
    if args.out is not None:
        raise UserError(f"--out {args.out}: is for --compare; labels lie in DATA/labels/NAME")
    if args.name is not None and Path(args.name).name != args.name:
        raise UserError(f"--name {args.name}: must be a plain folder name, made in DATA/labels")
    if len(strategies) > 1:
        raise UserError("--strategy: given twice; a label set has one, --compare takes several")
    writer = make_writer(args.writer, args.llm)
    for data in args.data:
        with _Bars(data, storage) as bars:
            made = label_data(
                data,
                model,
                storage=storage,
                strategy=strategies[0] if strategies else None,
                name=args.name,
                writer=writer,
                on_video=bars.video,
                on_question=bars.questions,
            )
        for line in made.lines:
            say(line)
        state = f"{made.count} labels" if made.count else "labels are there already"
        say(f"{made.folder}: {state}")


def _strategies(args: argparse.Namespace) -> list[Strategy]:
    try:
        return [parse_strategy(text) for text in args.strategy or ()]
    except ValueError as error:
        raise UserError(f"--{error}") from None


def _compare(
    args: argparse.Namespace,
    model: GCGConfig,
    storage: StorageOptions,
    extra: list[Strategy],
    say: Callable[[str], object],
) -> None:
    if args.name is not None:
        raise UserError(f"--name {args.name}: --compare writes no labels; leave one of them out")
    if args.out is None and any(map(is_url, args.data)):
        raise UserError(
            "--compare: for data at a URL it is written locally; give a folder with --out"
        )
    check_plot()
    writer = make_writer(args.writer, args.llm)
    for data in args.data:
        with _Bars(data, storage) as bars:
            figures = compare_labels(
                data,
                model,
                extra,
                storage=storage,
                writer=writer,
                on_video=bars.video,
                on_question=bars.questions,
            )
        folder = Path(data, "compare") if args.out is None else args.out
        if args.out is not None and len(args.data) > 1:
            folder = args.out / last_part(data)
        say("\n".join([str(data), *figures["notes"], comparison_table(figures)]))
        say("wrote {} and {}".format(*write_comparison(figures, folder)))


class _Bars:
    """Progress over a data set's questions (where a model describes them) and its clips."""

    def __init__(self, data: str, storage: StorageOptions) -> None:
        source = open_source(data, storage)
        self._clips = sum(shard.num_samples for shard in source.shards)
        source.close()
        self._name = last_part(data)
        self._bar: tqdm | None = None

    def __enter__(self) -> _Bars:
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def questions(self, count: int, total: int) -> None:
        self._show("describe", "question", total).update(count)

    def video(self) -> None:
        self._show("label", "clip", self._clips).update()

    def _show(self, stage: str, unit: str, total: int) -> tqdm:
        title = f"{stage} {self._name}"
        if self._bar is None or self._bar.desc.removesuffix(": ") != title:
            self.__exit__()
            self._bar = tqdm(total=total, desc=title, unit=unit)
        return self._bar
