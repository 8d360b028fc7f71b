"""The loader against others and against what is asked of it, all in one run.

    python -m benchmarks.loader --work DIR [--sites DIR] [--clips DIR] [--quick]

Encodes H.264 clips (240p and 480p, keyframes every 30 and 250 frames, 10 to 40 s, and 180 s with a
keyframe a second), lets our decoder, torchcodec, decord, decord2, PyAV and the loaders of
webdataset and StreamingDataset (both with torchcodec) take turns on them, each in a process of its
own, and measures our loader's overhead, its gain from several questions a visit, resuming and
planning. CPU
time is user plus system time of the process (getrusage); each figure is a median over interleaved
rounds, and ratios are taken within a round.

The other packages are installed below DIR/sites, each in a folder of its own
(benchmarks/peers.py), or lie below the folder of ``--sites``. torchcodec needs a system FFmpeg.
What cannot be had is named in the result.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
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
from benchmarks.loading.report import summary
from benchmarks.peers import install
from benchmarks.results import Result, machine, markdown, save


@dataclass(frozen=True)
class Settings:
    """``clips``: compare decoders on the clips of this folder, not on our own. ``seconds``: lengths
    of our own. ``copies``: decodes of a clip in a round. ``quick``: 240p alone."""

    work: Path
    sites: Path
    rounds: int
    seconds: Sequence[int]
    copies: int
    quick: bool
    frames: int = 32
    clips: Path | None = None


def run(asked: Settings) -> Result:
    """Encode, compare decoders, and measure our loader."""
    heights = (240,) if asked.quick else (240, 480)
    say = sys.stderr.write
    say("encoding clips\n")
    compared = [Recipe(h, s, g) for h in heights for g in (30, 250) for s in asked.seconds]
    made = make_clips(compared, asked.work / "clips")
    clips = given_clips(asked.clips) if asked.clips else made
    lengths = [Recipe(240, 10, RATE), Recipe(240, 30 if asked.quick else 180, RATE)]
    short, long = make_clips(lengths, asked.work / "clips")
    found = compare(
        [*clips, short, long],
        asked.work,
        asked.sites,
        rounds=asked.rounds,
        num_frames=asked.frames,
        copies=asked.copies,
        say=say,
    )
    say("our loader\n")
    claims = [*decoding_claims(found, clips), length_claim(found, short, long)]
    claims += loader_claims(
        made,
        short,
        asked.work,
        rounds=asked.rounds,
        num_frames=asked.frames,
        steps=3 if asked.quick else 6,
    )
    say("planning\n")
    claims.append(planning_claim(asked.rounds))
    note = (
        f"{machine()}; {asked.frames} frames → 224², {asked.rounds} rounds of {asked.copies} "
        f"copies a clip, {THREADS} threads for decoders, one for webdataset and StreamingDataset "
        "(no worker processes, which spares them handing over tensors); OMP_NUM_THREADS=1"
    )
    return summary(claims, found, [*clips, short, long], [note])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="The loader against others, in one run.")
    parser.add_argument("--work", type=Path, required=True, help="folder for clips and results")
    parser.add_argument(
        "--sites", type=Path, help="folder of packages; by default they are installed"
    )
    parser.add_argument("--clips", type=Path, help="clips to compare decoders on, not our own")
    parser.add_argument("--frames", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--copies", type=int, default=4, help="decodes of a clip in a round")
    parser.add_argument("--seconds", type=int, nargs="+", default=[10, 20, 40], help="of clips")
    parser.add_argument("--quick", action="store_true", help="few clips and rounds: does it run?")
    parser.add_argument("--json", type=Path, help="file for all that was measured")
    args = parser.parse_args(argv)
    sites = args.sites or args.work / "sites"
    failed = [] if args.sites else install(sites)
    few = args.quick
    result = run(
        Settings(
            args.work, sites, rounds=2 if few else args.rounds,
            seconds=[10] if few else args.seconds, copies=2 if few else args.copies, quick=few,
            frames=args.frames, clips=args.clips,
        )
    )  # fmt: skip
    result = replace(result, notes=(*result.notes, *failed))
    if args.json is not None:
        save(result, args.json)
    sys.stdout.write(markdown(result))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
