"""The released grounding module written out from docs/method.md in float64 loops.

It shares no code with gcg/: what the parity check compares with must not be what it checks.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

HEADS, LAYERS = 4, 2
Arrays = dict[str, Tensor]


def write_case(path: Path, *, options: int, width: float, tau: float, seed: int = 0) -> None:
    """Write a small case as an ``.npz`` like the authors' ones."""
    generator = torch.Generator().manual_seed(seed)
    pairs, frames, moments, joint, inner = 3, 10, 3, 32, 8

    def draw(*shape: int, scale: float = 1.0) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64) * scale

    case: Arrays = {
        "in.Q": draw(pairs, 1 + options, joint),
        "in.K": draw(pairs, frames, joint),
        "in.V": draw(pairs, frames, 2, joint),
        "in.answer": draw(pairs, joint),
        "in.label_probs": draw(pairs, frames),
        "in.answers_id": torch.arange(pairs) % max(options, 1),
    }
    case |= {
        f"sd.{name}": value for name, value in module_weights(draw, frames, moments, joint, inner)
    }
    case |= _outputs(case, width, tau, moments)
    case |= _perturbed(draw, pairs, frames, moments)
    np.savez(path, **{name: _stored(value) for name, value in case.items()})  # type: ignore[arg-type]


def _stored(value: Tensor) -> np.ndarray:
    return value.to(torch.float32).numpy() if value.is_floating_point() else value.numpy()


def module_weights(draw, frames: int, moments: int, joint: int, inner: int):
    def linear(name: str, out: int, into: int, bias: bool = True):
        # Rounded to float32 first: that is what the file holds.
        yield f"{name}.weight", draw(out, into, scale=into**-0.5).float().double()
        if bias:
            yield f"{name}.bias", draw(out, scale=0.1).float().double()

    yield from linear("embedding.1", inner, joint, bias=False)
    yield "modality_embedding.modality_embedding.weight", draw(2, inner).float().double()
    yield "position_v.position_embeddings.weight", draw(frames, inner).float().double()
    for number in range(LAYERS):
        layer = f"encoder.layer.{number}"
        for part in ("q_lin", "k_lin", "v_lin", "out_lin"):
            yield from linear(f"{layer}.attention.{part}", inner, inner)
        for norm in ("sa_layer_norm", "output_layer_norm"):
            yield f"{layer}.{norm}.weight", 1 + draw(inner, scale=0.1).float().double()
            yield f"{layer}.{norm}.bias", draw(inner, scale=0.1).float().double()
        yield from linear(f"{layer}.ffn.lin1", 4 * inner, inner)
        yield from linear(f"{layer}.ffn.lin2", inner, 4 * inner)
    yield from linear("satt_pool_frame.0", inner // 2, inner)
    yield from linear("satt_pool_frame.2", 1, inner // 2)
    yield from linear("logit_gauss_c.1", moments, inner)
    yield from linear("proj_head.1", inner // 2, joint, bias=False)
    yield from linear("proj_head.3", inner // 2, inner // 2)


def _apply(case: Arrays, name: str, x: Tensor) -> Tensor:
    out = x @ case[f"sd.{name}.weight"].T
    bias = case.get(f"sd.{name}.bias")
    return out if bias is None else out + bias


def _norm(case: Arrays, name: str, x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-12).sqrt()
    return scaled * case[f"sd.{name}.weight"] + case[f"sd.{name}.bias"]


def _gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / 2**0.5))


def _attention(case: Arrays, layer: str, x: Tensor) -> Tensor:
    query, key, value = (_apply(case, f"{layer}.attention.{n}_lin", x) for n in "qkv")
    size = x.shape[-1] // HEADS
    heads = []
    for head in range(HEADS):
        part = slice(head * size, (head + 1) * size)
        scores = query[:, part] @ key[:, part].T / size**0.5
        heads.append(scores.softmax(-1) @ value[:, part])
    return _apply(case, f"{layer}.attention.out_lin", torch.cat(heads, -1))


def _centers(case: Arrays, pair: int) -> Tensor:
    kind = case["sd.modality_embedding.modality_embedding.weight"]
    table = case["sd.position_v.position_embeddings.weight"]
    video = _apply(case, "embedding.1", case["in.K"][pair]) + kind[1] + table
    x = torch.cat([video, _apply(case, "embedding.1", case["in.Q"][pair]) + kind[0]])
    for number in range(LAYERS):
        layer = f"encoder.layer.{number}"
        x = x + _attention(case, layer, _norm(case, f"{layer}.sa_layer_norm", x))
        inside = _gelu(
            _apply(case, f"{layer}.ffn.lin1", _norm(case, f"{layer}.output_layer_norm", x))
        )
        x = x + _apply(case, f"{layer}.ffn.lin2", inside)
    video = x[: len(table)] + table
    scores = _apply(case, "satt_pool_frame.2", _apply(case, "satt_pool_frame.0", video).tanh())
    pooled = (scores.softmax(0) * video).sum(0)
    return 1 / (1 + (-_apply(case, "logit_gauss_c.1", pooled)).exp())


def _weights_over_time(centers: Tensor, width: float, frames: int) -> Tensor:
    sigma = max(width, 1e-2) / 9
    x = torch.linspace(0, 1, frames, dtype=torch.float64)
    total = (-((x[:, None] - centers) ** 2) / (2 * sigma**2)).exp().sum(1)
    return total / total.max()


def _project(case: Arrays, x: Tensor) -> Tensor:
    out = _apply(case, "proj_head.3", _gelu(_apply(case, "proj_head.1", x)))
    return out / out.norm(dim=-1, keepdim=True)


def _outputs(case: Arrays, width: float, tau: float, moments: int) -> Arrays:
    pairs, frames = case["in.K"].shape[:2]
    centers = torch.stack([_centers(case, pair) for pair in range(pairs)])
    weights = torch.stack([_weights_over_time(mu, width, frames) for mu in centers])
    labels = case["in.label_probs"].topk(moments).indices.sort().values
    chosen = weights.topk(moments).indices.sort().values
    regression = contrast = 0.0
    for pair in range(pairs):
        mu = centers[pair] * (frames - 1)
        for k in range(moments):
            gap = float((mu[k] - labels[pair, k]).abs())
            point = 0.5 * gap**2 if gap < 1 else gap - 0.5
            regression += point / (pairs * moments)
            if k + 1 < moments:
                hinge = max(0.0, float(1 + mu[k] - mu[k + 1]))
                regression += hinge / (pairs * (moments - 1))
        contrast += _contrast(case, pair, chosen[pair].tolist(), tau) / pairs
    return {
        "out.centers": centers,
        "out.weights_T": weights,
        "out.topk_label": labels,
        "out.topk_pred": chosen,
        "out.selected": torch.stack([case["in.V"][i, chosen[i]] for i in range(pairs)]),
        "out.regression_loss": torch.tensor(regression, dtype=torch.float64),
        "out.contrastive_loss_hard": torch.tensor(contrast, dtype=torch.float64),
    }


def _contrast(case: Arrays, pair: int, chosen: list[int], tau: float) -> float:
    frames, options = case["in.K"][pair], case["in.Q"][pair, 1:]
    answer = _project(case, case["in.answer"][pair])
    others = [a for i, a in enumerate(case["in.answer"]) if i != pair]
    wrong = [o for i, o in enumerate(options) if i != int(case["in.answers_id"][pair])]
    intra = [answer @ _project(case, f) for t, f in enumerate(frames) if t not in chosen]
    total = 0.0
    for frame in chosen:
        positive = _project(case, frames[frame])
        negatives = [positive @ _project(case, text) for text in [*wrong, *others]]
        logits = torch.stack([positive @ answer, *intra, *negatives]) / tau
        total -= float(logits.log_softmax(0)[0]) / len(chosen)
    return total


def _perturbed(draw, pairs: int, frames: int, moments: int, draws: int = 40) -> Arrays:
    x, noise = draw(pairs, frames, scale=0.1).abs().float(), draw(pairs, draws, frames).float()
    upstream = draw(pairs, moments, frames).float()
    indicator = torch.zeros(pairs, moments, frames, dtype=torch.float64)
    gradient = torch.zeros(pairs, frames, dtype=torch.float64)
    for pair in range(pairs):
        for number in range(draws):
            best = (x[pair] + 0.05 * noise[pair, number]).topk(moments).indices.sort().values
            for k, frame in enumerate(best.tolist()):
                indicator[pair, k, frame] += 1 / draws
                term = upstream[pair, k, frame] * noise[pair, number, frame]
                gradient[pair, frame] += float(term) / (draws * 0.05)
    return {
        "ptk.x": x,
        "ptk.noise": noise,
        "ptk.indicator": indicator,
        "ptk.grad_out": upstream,
        "ptk.grad_x": gradient,
    }
