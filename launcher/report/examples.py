"""Which questions a page shows: some answered rightly, some wrongly, and the worst grounded."""

from __future__ import annotations

from collections.abc import Sequence

from dataloaders.seeds import int63
from gcg.metrics import iou_iop
from launcher.evaluation.rows import Row

GROUPS = ("right", "wrong", "worst grounded")


def choose_examples(rows: Sequence[Row], seed: int, count: int) -> dict[str, list[Row]]:
    """At most ``count`` rows a group, drawn by (run seed, video, question): the same whatever the
    order of the rows. A group takes different videos as long as there are any.

    The worst grounded have the least IoP, of equals the least IoU; only questions with gold spans
    and a predicted one can be among them.
    """
    drawn = in_drawn_order(rows, seed)
    grounded = [row for row in drawn if row["gold"] and row["span"]]
    worst = sorted(grounded, key=lambda row: iou_iop(row["span"], row["gold"])[::-1])
    pools = (
        [row for row in drawn if row["correct"]],
        [row for row in drawn if not row["correct"]],
        worst,
    )
    return {name: _spread(pool, count) for name, pool in zip(GROUPS, pools, strict=True)}


def in_drawn_order(rows: Sequence[Row], seed: int) -> list[Row]:
    """The rows in an order that depends on the seed and on what the rows are alone."""
    return sorted(rows, key=lambda row: int63("example", seed, row["video"], row["question"]))


def _spread(rows: Sequence[Row], count: int) -> list[Row]:
    """The first rows, one a video; then, if that is too few, second ones."""
    seen: set[str] = set()
    firsts, others = [], []
    for row in rows:
        (others if row["video"] in seen else firsts).append(row)
        seen.add(row["video"])
    return (firsts + others)[:count]
