"""`gcg export`: a run's model in a folder that needs no run, and no other package of ours."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataloaders.location import is_url
from gcg.saved import Parts, placed
from gcg.saving import Saving, plan_saving, save_pretrained
from launcher.convert import DTYPES
from launcher.errors import UserError
from launcher.export.card import model_card, origin
from launcher.export.run import TrainedRun
from launcher.storage.new_folder import check_new, check_room, new_folder
from launcher.storage.places import run_place

CARD = "README.md"


@dataclass(frozen=True)
class Export:
    """What there is to write, and where."""

    run: TrainedRun
    saving: Saving
    out: Path
    results: Mapping[str, Mapping[str, Any]]


def plan_export(
    run: TrainedRun,
    to: str | Path,
    parts: Parts = "trained",
    dtype: str = "keep",
    results: Path | None = None,
) -> Export:
    """Gather the weights, and check what can be checked; writes nothing.

    Args:
        run: from :func:`launcher.export.run.open_run`.
        to: the folder to write; must not be there, or be empty.
        parts: see :func:`gcg.saving.plan_saving`.
        dtype: ``keep``, ``bf16``, ``fp16`` or ``fp32``.
        results: of `gcg eval --out`; the figures of this run go onto the model's page.

    Raises:
        UserError: ``to`` is taken or has too little room, or the results are of other runs.
        ModelError: a frozen part is not to be had.
    """
    if is_url(str(to)):
        raise UserError(f"--to {to}: is a URL; export to a folder, then copy it there")
    out = Path(to)
    check_new(f"--to {out}", out)
    figures = {} if results is None else _results(run, results)
    config = run.config
    saving = plan_saving(
        config.model, run.state(), parts, seed=config.run.seed, dtype=DTYPES[dtype]
    )
    check_room(f"--to {out}", out, saving.num_bytes)
    return Export(run, saving, out, figures)


def export(export: Export, on_bytes: Callable[[int], object] = lambda count: None) -> list[Path]:
    """Write the folder, which appears when it is complete; return its weight files."""
    out, saving = export.out, export.saving
    made = origin(export.run)
    shown = placed(saving.config, saving.parts)
    card = model_card(export.run, made, shown, saving.parts, export.results)
    with new_folder(f"--to {out}", out) as partial:
        files = save_pretrained(saving, partial, more=made, on_bytes=on_bytes)
        (partial / CARD).write_text(card, encoding="utf-8")
    return [out / file.relative_to(partial) for file in files]


def _results(run: TrainedRun, path: Path) -> dict[str, dict[str, Any]]:
    """The entries of a results file that are this run's."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        rows = {str(name): dict(row) for name, row in tree.items() if "split" in row}
        own = {n: r for n, r in rows.items() if _same(run_place(r["run"]), run.folder.root)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"--results {path}: cannot be read ({type(error).__name__}: {error}); give what `gcg "
            "eval --out` wrote"
        ) from None
    fitting = {n: r for n, r in own.items() if r.get("weights", "final") == run.weights}
    if not fitting:
        raise UserError(
            f"--results {path}: holds no figures of {run.folder.root}, weights {run.weights}; run "
            f"`gcg eval {run.folder.root} --weights {run.weights} --out {path}`"
        )
    return fitting


def _same(one: Path, other: Path) -> bool:
    return str(one.absolute()) == str(other.absolute())
