"""The loader against others and against what is asked of it, all in one run.

    python -m benchmarks.loader --work DIR [--sites DIR] [--clips DIR] [--quick]

Encodes H.264 clips (240p and 480p, keyframes every 30 and 250 frames, 10 to 40 s, and 180 s with a
keyframe a second), lets our decoder, torchcodec, decord, decord2, PyAV and the loaders of
webdataset and StreamingDataset (both with torchcodec) take turns on them, each in a process of its
own, and measures our loader's overhead, its gain from several questions a visit, resuming and
planning. CPU
time is user plus system time of the process (getrusage); each figure is a median over interleaved
rounds, and ratios are taken within a round. Writes DIR/loader.md and DIR/loader.json.

The other packages are optional; each lies in its own folder, since decord and decord2 exclude each
other: `pip install --no-deps --target SITES/decord2 decord2`, likewise torchcodec (which needs a
system FFmpeg), decord, streaming (mosaicml-streaming with what it imports). What is not there is
named in the result.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from benchmarks.loading.claims import (
    decoding_claims,
    length_claim,
    loader_claims,
    planning_claim,
)
from benchmarks.loading.clips import RATE, Recipe, given_clips, make_clips
from benchmarks.loading.contenders import THREADS
from benchmarks.loading.decoding import compare
from benchmarks.loading.report import markdown, tree
from benchmarks.results import machine


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="The loader against others, in one run.")
    parser.add_argument("--work", type=Path, required=True, help="folder for clips and results")
    parser.add_argument("--sites", type=Path, default=Path("sites"), help="folder of packages")
    parser.add_argument("--clips", type=Path, help="clips to compare decoders on, not our own")
    parser.add_argument("--frames", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--copies", type=int, default=4, help="decodes of a clip in a round")
    parser.add_argument("--seconds", type=int, nargs="+", default=[10, 20, 40], help="of clips")
    parser.add_argument("--quick", action="store_true", help="few clips and rounds: does it run?")
    args = parser.parse_args(argv)
    say = sys.stderr.write
    rounds, seconds = (2, [10]) if args.quick else (args.rounds, args.seconds)
    heights = (240,) if args.quick else (240, 480)
    copies = 2 if args.quick else args.copies
    say("encoding clips\n")
    compared = [Recipe(h, s, g) for h in heights for g in (30, 250) for s in seconds]
    made = make_clips(compared, args.work / "clips")
    clips = given_clips(args.clips) if args.clips else made
    lengths = [Recipe(240, 10, RATE), Recipe(240, 30 if args.quick else 180, RATE)]
    short, long = make_clips(lengths, args.work / "clips")
    result = compare(
        [*clips, short, long],
        args.work,
        args.sites,
        rounds=rounds,
        num_frames=args.frames,
        copies=copies,
        say=say,
    )
    # Kept should what follows fail: this part takes longest.
    (args.work / "loader.json").write_text(json.dumps(tree([], result, [])) + "\n")
    say("our loader\n")
    claims = [*decoding_claims(result, clips), length_claim(result, short, long)]
    claims += loader_claims(
        made, short, args.work, rounds=rounds, num_frames=args.frames, steps=3 if args.quick else 6
    )
    say("planning\n")
    claims.append(planning_claim(rounds))
    notes = [
        f"{machine()}; {args.frames} frames → 224², {rounds} rounds of {copies} copies a clip, "
        f"{THREADS} threads for decoders, one for webdataset and StreamingDataset (no worker "
        "processes, which spares them handing over tensors); OMP_NUM_THREADS=1",
    ]
    text = markdown(claims, result, [*clips, short, long], notes)
    (args.work / "loader.md").write_text(text, encoding="utf-8")
    (args.work / "loader.json").write_text(json.dumps(tree(claims, result, notes), indent=1) + "\n")
    sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
