"""The `released` profile against recorded cases: one made here, and the authors' where they lie."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.parity import main
from tests.benchmarks.released import write_case

AUTHORS = sorted((Path(__file__).parents[2].parent / "shared" / "parity").glob("*.npz"))


@pytest.mark.parametrize(
    ("options", "width", "tau"), [(5, 0.2, 0.1), (0, 0.3, 0.07), (3, 0.45, 0.2)]
)
def test_equals_the_module_written_out_in_loops(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: int, width: float, tau: float
) -> None:
    write_case(tmp_path / "case.npz", options=options, width=width, tau=tau)
    assert main([str(tmp_path / "case.npz")]) == 0
    said = capsys.readouterr().out
    assert f"(width)                   {width:.2f}".split() in [
        x.split() for x in said.splitlines()
    ]
    for name in ("centers", "contrastive_loss_hard", "ptk.indicator", "ptk.grad_x"):
        assert name in said


@pytest.mark.skipif(not AUTHORS, reason="the authors' cases are not here")
def test_equals_the_authors_cases(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(path) for path in AUTHORS]) == 0


def change(path: Path, name: str, amount: float) -> None:
    with np.load(path) as file:
        arrays = dict(file)
    arrays[name] = arrays[name] + np.asarray(amount, dtype=arrays[name].dtype)
    np.savez(path, **arrays)


@pytest.mark.parametrize(
    ("name", "amount"),
    [
        ("out.centers", 3e-5),
        ("out.regression_loss", 3e-5),
        ("out.contrastive_loss_hard", 3e-5),
        ("out.topk_pred", 1),
        ("ptk.grad_x", 1e-4),
        ("sd.proj_head.3.bias", 0.1),
        ("sd.encoder.layer.1.ffn.lin1.bias", 0.1),
        ("out.selected", float("nan")),
    ],
)
def test_a_difference_is_found(tmp_path: Path, name: str, amount: float) -> None:
    write_case(tmp_path / "case.npz", options=5, width=0.2, tau=0.1)
    change(tmp_path / "case.npz", name, amount)
    assert main([str(tmp_path / "case.npz")]) == 1


def test_a_wrong_width_or_temperature_is_not_within(tmp_path: Path) -> None:
    write_case(tmp_path / "case.npz", options=5, width=0.2, tau=0.1)
    assert main([str(tmp_path / "case.npz"), "--width", "0.25"]) == 1
    assert main([str(tmp_path / "case.npz"), "--temperature", "0.11"]) == 1


def test_what_is_no_case_gets_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.npz").write_text("no zip")
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    for name, rule in (("text", "cannot be read"), ("other", "is missing"), ("none", "No such")):
        assert main([str(tmp_path / f"{name}.npz")]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert rule in error
