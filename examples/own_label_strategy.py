"""A label strategy of one's own: frames that stay like the description for a while.

The paper takes the K frames most like the description; a single frame may be so by accident. This
one takes them of a running mean, and so prefers moments that last. It only says how; everything
else, from decoding to the file of labels, is what `gcg label` does:

    python -m examples.own_label_strategy runs/demo/shards/train --config examples/demo.yaml
    gcg train examples/demo.yaml --set data.labels=lasting --set run.name=lasting

A set of labels knows which strategy with which options made it, so that a run is not gone on with
another by accident.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from gcg.labels import Evidence, Strategy
from launcher.config import load_run_config
from launcher.labelling.label import label_data


class Lasting(Strategy):
    """The K highest of the similarity to the description, averaged over neighbouring frames."""

    name = "lasting"
    meaning = "the frames about which the clip is like the description"

    reach: int = Field(default=1, ge=0, le=99, description="frames on each side")

    def row(self, evidence: Evidence) -> Tensor:
        # Beyond its ends a clip stays as its first and last frame.
        padded_PT = F.pad(evidence.description, (self.reach, self.reach), mode="replicate")
        return padded_PT.unfold(1, 2 * self.reach + 1, 1).mean(dim=-1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("data", nargs="+", metavar="DATA", help="packed folders")
    parser.add_argument("--config", type=Path, required=True, help="run file: its model")
    parser.add_argument("--reach", type=int, default=1, help="frames on each side")
    args = parser.parse_args()
    config = load_run_config(args.config)
    for place in args.data:
        made = label_data(place, config.model, strategy=Lasting(reach=args.reach))
        sys.stdout.write(f"{made.folder}: {made.count} labels\n")


if __name__ == "__main__":
    main()
