"""How far the `released` profile is from the authors' grounding module, on recorded cases.

    python -m benchmarks.parity CASE.npz [CASE.npz ...]

A case holds inputs ``in.*``, weights ``sd.*`` and results ``out.*`` of the released module, and
``ptk.*``, a perturbed top-K with its noise (docs/method.md). All sizes are read from the arrays.
The width of the Gaussians and the temperature are no arrays of a case: unless given, the one round
value is looked for that reproduces the recorded weights and loss, and printed.

Prints the largest absolute error of each output; exit code 0 when all are within 1e-5 and all
indices are equal, 1 when not, 2 when a file is no such case.
"""

from __future__ import annotations

import argparse
import math
import sys
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gcg.config import GCGConfig, GroundingConfig, LossConfig
from gcg.contrast import Candidates, HeadContrast, Pairs
from gcg.gaussian import mixture_log_weights
from gcg.losses import Labels
from gcg.profiles import resolve_profile
from gcg.selection import hard_topk, one_hot, perturbed_topk
from gcg.weights.released import renamed

TOLERANCE = 1e-5  # float32 sums in another order; values are of the order of 1 to 10
_ROUND = tuple(round(0.01 * i, 2) for i in range(1, 101))
_SCALE = 0.05  # sigma of the perturbed top-K's noise, the released code's


class NoCaseError(Exception):
    """A file that holds no reference case; the text is one line."""


@dataclass(frozen=True)
class Case:
    """One reference case: its arrays as tensors."""

    arrays: dict[str, Tensor]

    def __getitem__(self, name: str) -> Tensor:
        try:
            return self.arrays[name]
        except KeyError:
            raise NoCaseError(
                f"array {name!r} is missing; it is no case of the released module"
            ) from None

    @property
    def num_layers(self) -> int:
        numbers = [name.split(".")[3] for name in self.arrays if ".encoder.layer." in f".{name}"]
        return 1 + max((int(number) for number in numbers), default=-1)


def read_case(path: Path) -> Case:
    """Read a case.

    Raises:
        NoCaseError: the file cannot be read.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            return Case({name: torch.from_numpy(file[name]) for name in file.files})
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise NoCaseError(f"cannot be read as an .npz file ({error})") from None


def module_states(case: Case) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The case's weights under our names: of the generator, and of the contrast head."""
    own = {name: value for name, value in case.arrays.items() if name.startswith("sd.")}
    found = renamed(own, "sd.")
    if len(found) < len(own):
        raise NoCaseError("one of its weights has no place in the released module")
    generator, head = (
        {n.removeprefix(part): v for n, v in found.items() if n.startswith(part)}
        for part in ("generator.", "contrast.")
    )
    return generator, head


def check(case: Case, width: float | None, temperature: float | None) -> dict[str, float]:
    """The largest absolute error of each output of the case, by name; inf for unequal indices.

    ``width`` and ``temperature`` where None are the round values that fit; what was used is in the
    result as ``(width)`` and ``(temperature)``.
    """
    config = GCGConfig(
        profile="released",
        num_frames=case["in.K"].shape[1],
        num_moments=case["out.centers"].shape[1],
        grounding=GroundingConfig(
            width=case["sd.embedding.1.weight"].shape[0], num_layers=case.num_layers
        ),
    )
    generator_state, head_state = module_states(case)
    joint_width = case["in.K"].shape[2]
    profile = resolve_profile(config)
    generator = profile.generator(joint_width).eval()
    generator.load_state_dict(generator_state)
    texts = case["in.Q"]
    mask = torch.ones(texts.shape[:2], dtype=torch.int64)
    with torch.no_grad():
        centers = generator(case["in.K"], texts, mask, texts[:, 0]).centers
        errors = {"centers": _error(centers, case["out.centers"])}
        width, log_weights = _fit(
            lambda value: _log_weights(config, value, centers),
            lambda value: _error(value.exp(), case["out.weights_T"]),
            width,
        )
        errors |= {"(width)": width, "weights_T": _error(log_weights.exp(), case["out.weights_T"])}
        moments = hard_topk(case["in.label_probs"], config.num_moments)
        chosen = hard_topk(log_weights.exp(), config.num_moments)
        errors["topk_label"] = _unequal(moments, case["out.topk_label"])
        errors["topk_pred"] = _unequal(chosen, case["out.topk_pred"])
        indicator = one_hot(chosen, config.num_frames)
        selected = torch.einsum("pkt,ptnc->pknc", indicator, case["in.V"])
        errors["selected"] = _error(selected, case["out.selected"])
        regression = profile.regression(centers, log_weights, Labels(moments, None)).mean()
        errors["regression_loss"] = _error(regression, case["out.regression_loss"])
        pairs, candidates = _contrast_inputs(case, indicator, log_weights.exp())

        def contrast(value: float) -> Tensor:
            loss = LossConfig(temperature=value)
            made = resolve_profile(config.model_copy(update={"loss": loss})).contrast(joint_width)
            assert isinstance(made, HeadContrast)
            made.load_state_dict(head_state)
            return made.eval()(pairs, candidates).mean()

        target = case["out.contrastive_loss_hard"]
        temperature, loss = _fit(contrast, lambda value: _error(value, target), temperature)
    errors |= {"(temperature)": temperature, "contrastive_loss_hard": _error(loss, target)}
    return errors | _perturbed(case)


def _log_weights(config: GCGConfig, width: float, centers: Tensor) -> Tensor:
    grounding = config.grounding.model_copy(update={"gaussian_width": width})
    profile = resolve_profile(config.model_copy(update={"grounding": grounding}))
    return mixture_log_weights(
        centers, profile.sigma, profile.timeline.positions(config.num_frames)
    )


def _contrast_inputs(case: Case, indicator: Tensor, weights: Tensor) -> tuple[Pairs, Candidates]:
    """The case's samples as one contrast group, each pair with a video of its own."""
    frames, texts = case["in.K"], case["in.Q"]
    numbers, group = torch.arange(len(frames)), torch.zeros(len(frames), dtype=torch.int64)
    options = texts[:, 1:] if texts.shape[1] > 1 else None
    wrong = None
    if options is not None:
        wrong = torch.arange(options.shape[1]) != case["in.answers_id"][:, None]
    answer = case["in.answer"]
    pairs = Pairs(
        joint=frames,
        positive=indicator @ frames,
        weights=weights,
        group=group,
        position=numbers,
        seeds=numbers,
        description=answer,
        answer=answer,
        options=options,
        wrong=wrong,
    )
    return pairs, Candidates(frames, group, numbers, answer, numbers, numbers)


def _perturbed(case: Case) -> dict[str, float]:
    weights = case["ptk.x"].clone().requires_grad_()
    k = case["ptk.indicator"].shape[1]
    indicator = perturbed_topk(weights, case["ptk.noise"], k, _SCALE, diagonal=True)
    (gradient,) = torch.autograd.grad(indicator, weights, case["ptk.grad_out"])
    return {
        "ptk.indicator": _error(indicator.detach(), case["ptk.indicator"]),
        "ptk.grad_x": _error(gradient, case["ptk.grad_x"]),
    }


def _fit(
    make: Callable[[float], Tensor], error: Callable[[Tensor], float], given: float | None
) -> tuple[float, Tensor]:
    values = _ROUND if given is None else (given,)
    made = [(error(result), value, result) for value in values for result in [make(value)]]
    _, value, result = min(made, key=lambda entry: entry[0])
    return value, result


def _error(ours: Tensor, theirs: Tensor) -> float:
    if ours.shape != theirs.shape:
        return float("inf")
    error = float((ours.double() - theirs.double()).abs().max())
    return float("inf") if math.isnan(error) else error


def _unequal(ours: Tensor, theirs: Tensor) -> float:
    return 0.0 if torch.equal(ours, theirs) else float("inf")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("cases", type=Path, nargs="+", metavar="FILE.npz")
    parser.add_argument("--width", type=float, help="of the Gaussians, 9 sigma")
    parser.add_argument("--temperature", type=float, help="tau of the contrastive loss")
    args = parser.parse_args(argv)
    worst = 0.0
    for path in args.cases:
        try:
            errors = check(read_case(path), args.width, args.temperature)
        except (NoCaseError, RuntimeError, IndexError) as error:
            sys.stderr.write(f"error: {path}: {' '.join(str(error).split())}\n")
            return 2
        sys.stdout.write(f"{path}\n")
        for name, value in errors.items():
            fitted = name.startswith("(")
            sys.stdout.write(f"  {name:<24}{value:>12.{'2f' if fitted else '2e'}}\n")
            worst = worst if fitted else max(worst, value)
    passed = worst <= TOLERANCE
    verdict = "within" if passed else "NOT within"
    sys.stdout.write(f"largest error {worst:.2e}: {verdict} {TOLERANCE:.0e}\n")
    return 0 if passed else 1


if __name__ == "__main__":
    raise SystemExit(main())
