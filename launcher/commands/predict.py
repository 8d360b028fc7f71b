"""`gcg predict`: ask a trained model about videos."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from launcher.commands import say
from launcher.errors import UserError

if TYPE_CHECKING:
    import torch

    from launcher.predict.batch import Row
    from launcher.predict.predictor import Asked, Predictor, Said

FAILED = 1  # exit code: some videos could not be read


def add_to(stages: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    stage = stages.add_parser(
        "predict",
        help="ask a trained model about a video, a folder of videos, or a file of questions",
        description="VIDEO is a video file; a folder, whose videos are all asked the question; or "
        'a .jsonl file, a line {"video": ..., "question": ..., "options": [...]} a question. Of '
        "several videos the answers are lines of JSON, and one that cannot be read is a line with "
        "its error; the exit code is then 1. Confidence is an option's probability among the "
        "options; of a written answer, the geometric mean of its tokens' probabilities.",
    )
    stage.add_argument("video", type=Path, metavar="VIDEO", help="a file, a folder, or a .jsonl")
    stage.add_argument("question", nargs="?", metavar="QUESTION", help="not with a .jsonl")
    stage.add_argument(
        "--model", required=True, metavar="PLACE", help="what gcg export wrote, or a run's folder"
    )
    stage.add_argument("--options", nargs="+", metavar="TEXT", help="choose among these; else open")
    stage.add_argument("--mode", choices=["grounding", "uniform", "oracle"], help="as trained")
    stage.add_argument("--answer", metavar="TEXT", help="the right one, which mode oracle peeks at")
    stage.add_argument(
        "--weights",
        choices=["final", "best", "last"],
        default="final",
        help="of a run: last is its newest checkpoint",
    )
    stage.add_argument("--device", metavar="NAME", help="cuda where there is one, else cpu")
    stage.add_argument(
        "--dtype", choices=["fp32", "bf16", "fp16"], default="fp32", help="to compute in"
    )
    stage.add_argument("--json", action="store_true", help="everything, with the weights' curve")
    stage.add_argument("--clip", type=Path, metavar="MP4", help="write the moment, cut out")
    stage.add_argument("--strip", type=Path, metavar="PNG", help="write a film strip with weights")
    stage.add_argument("--out", type=Path, metavar="JSONL", help="of several videos; else stdout")
    stage.add_argument("--batch", type=int, default=4, metavar="N", help="videos in one pass; 4")
    stage.add_argument("--threads", type=int, default=2, metavar="N", help="videos decoded at once")
    stage.add_argument(
        "--decode-timeout", type=float, default=60.0, metavar="S", help="a video; 0: no limit"
    )
    stage.set_defaults(run=predict)


def predict(args: argparse.Namespace) -> int:
    several = args.video.is_dir() or args.video.suffix == ".jsonl"
    _check(args, several)
    rows = _rows(args) if several else []
    if not several and not args.video.is_file():
        raise UserError(f"{args.video}: no such file or folder; give a video's path")
    predictor = _predictor(args)
    return _many(args, predictor, rows) if several else _one(args, predictor)


def _check(args: argparse.Namespace, several: bool) -> None:
    problems = []
    listed = args.video.suffix == ".jsonl" and not args.video.is_dir()
    if listed:
        for name in ("question", "options", "answer"):
            if getattr(args, name) is not None:
                shown = "QUESTION" if name == "question" else f"--{name}"
                problems.append(f"{shown}: stands in the lines of {args.video}; leave it out")
    elif args.question is None or not args.question.strip():
        problems.append('QUESTION: none given; gcg predict VIDEO "what happens?" --model PLACE')
    if args.options is not None and (
        len(args.options) < 2 or not all(map(str.strip, args.options))
    ):
        problems.append(f"--options {args.options}: must be two texts or more; or leave it out")
    for name in ("clip", "strip"):
        if several and getattr(args, name) is not None:
            problems.append(f"--{name}: is of one video; leave it out, or name one video")
    if not several and args.out is not None:
        problems.append("--out: is for several videos; use --json")
    if args.out is not None and args.out.exists():
        problems.append(f"--out {args.out}: is there already; give a new file, or delete it")
    for name in ("batch", "threads"):
        if getattr(args, name) < 1:
            problems.append(f"--{name} {getattr(args, name)}: must be at least 1")
    for name in ("clip", "strip", "out"):
        path = getattr(args, name)
        if path is not None and not path.absolute().parent.is_dir():
            problems.append(f"--{name} {path}: its folder is not there; make it first")
    if problems:
        raise UserError(problems)


def _rows(args: argparse.Namespace) -> list[Row]:
    from launcher.predict.batch import rows_of_file, rows_of_folder

    return (
        rows_of_folder(args.video, _asked(args))
        if args.video.is_dir()
        else rows_of_file(args.video)
    )


def _asked(args: argparse.Namespace) -> Asked:
    from gcg.questions import Query
    from launcher.predict.predictor import Asked

    options = None if args.options is None else tuple(args.options)
    return Asked(Query(args.question, options), args.answer)


def _predictor(args: argparse.Namespace) -> Predictor:
    from launcher.predict.predictor import Predictor

    return Predictor.load(
        args.model,
        mode=args.mode,
        weights=args.weights,
        device=_device(args),
        dtype=_dtype(args),
    )


def _dtype(args: argparse.Namespace) -> torch.dtype:
    import torch

    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[args.dtype]


def _device(args: argparse.Namespace) -> str:
    import torch

    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        why = str(error).split("\n")[0]
        raise UserError(f"--device {device}: cannot be used here ({why}); use cpu") from None
    return device


def _one(args: argparse.Namespace, predictor: Predictor) -> int:
    from launcher.predict.clips import ClipReader
    from launcher.predict.show import shown

    asked = _asked(args)
    predictor.events([asked])  # what cannot be asked is told before the video is read
    reader = ClipReader(
        predictor.processor, keep_frames=args.strip is not None, timeout_s=args.decode_timeout
    )
    try:
        clip = reader(args.video)
    finally:
        reader.close()
    (said,) = predictor([clip], [[asked]])
    _files(args, said)
    say(json.dumps(said.row(), ensure_ascii=False, indent=1) if args.json else shown(said))
    return 0


def _files(args: argparse.Namespace, said: Said) -> None:
    from launcher.storage.places import fault_of

    made: dict[Path, bytes] = {}
    if args.strip is not None:
        from launcher.predict.strip import strip_png

        made[args.strip] = strip_png(said)
    if args.clip is not None:
        from dataloaders.cut import cut
        from launcher.predict.clips import read_video

        assert said.prediction.span is not None  # a clip that was decoded has a duration
        made[args.clip] = cut(read_video(args.video), *said.prediction.span, name=str(args.video))
    for path, content in made.items():
        why = fault_of(lambda path=path, content=content: path.write_bytes(content))
        if why is not None:
            raise UserError(f"{path}: {why}; name a file that can be written")


def _many(args: argparse.Namespace, predictor: Predictor, rows: list[Row]) -> int:
    from tqdm import tqdm

    from launcher.predict.batch import predict_rows, write_rows

    predictor.events([row.asked for row in rows])  # before a file is made, or a video read
    with ExitStack() as opened:
        file = sys.stdout
        if args.out is not None:
            file = opened.enter_context(args.out.open("w", encoding="utf-8"))
        bar = opened.enter_context(
            tqdm(total=len({row.video for row in rows}), desc="predict", unit="video")
        )
        found = predict_rows(
            predictor,
            rows,
            videos_per_pass=args.batch,
            threads=args.threads,
            timeout_s=args.decode_timeout,
            on_video=bar.update,
        )
        count, failed = write_rows(found, file.write)
    if args.out is not None:
        say(f"{args.out}: {count - failed} of {count} questions answered")
    if failed:
        sys.stderr.write(
            f"error: {failed} of {count} questions not answered: their videos cannot be read; see "
            'the rows with "error"\n'
        )
    return FAILED if failed else 0
