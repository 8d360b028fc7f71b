"""Dropout by sample: its statistics, and that nothing but the sample and the place counts."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import T5Config, T5ForConditionalGeneration

from gcg import dropout
from gcg.dropout import SampleDropout, dropout_seeds, install_sample_dropout

SEEDS = torch.tensor([7, 2**62 + 11, 0, 123456789])


class Part(nn.Module):
    """Two dropouts, one in a list, around a weight."""

    def __init__(self, p: float = 0.3) -> None:
        super().__init__()
        self.inner = nn.ModuleList([nn.Dropout(p), nn.Linear(16, 16)])
        self.drop = nn.Dropout(p)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(F.gelu(self.inner[1](self.inner[0](x))))


def named(p: float = 0.5, name: str = "drop") -> SampleDropout:
    """A dropout that is in a model under this name."""
    model = nn.ModuleDict({name: SampleDropout(p)})
    install_sample_dropout(model)
    module = model[name]
    assert isinstance(module, SampleDropout)
    return module


def kept(shape: tuple[int, ...], p: float, seeds: Tensor, name: str = "drop") -> Tensor:
    return named(p, name)(torch.ones(shape), seeds) != 0


def correlations(mask: Tensor, p: float) -> Iterator[float]:
    """Of neighbours along every axis, and of the corners of squares, in standard errors."""
    centred = (mask.double() - (1 - p)) / math.sqrt(p * (1 - p))
    products = [centred]
    for axis in range(3):
        for step in (1, 2, 8):
            length = mask.shape[axis] - step
            products.append(centred.narrow(axis, 0, length) * centred.narrow(axis, step, length))
    products.append(products[1][:, :, 1:] * products[1][:, :, :-1])
    products.append(products[4][:, :, 1:] * products[4][:, :, :-1])
    for product in products:
        yield float(product.mean() * math.sqrt(product.numel()))


@pytest.mark.parametrize("p", [0.05, 0.1, 0.5, 0.9])
def test_the_rate_is_p_and_neighbours_are_independent(p: float):
    seeds = torch.randint(0, 2**63 - 1, (16,), generator=torch.Generator().manual_seed(0))
    mask = kept((32, 32, 512), p, seeds)
    errors = list(correlations(mask, p))
    # 12 normal values: one beyond 4.5 standard errors would come once in 12,000 seeds
    assert max(map(abs, errors)) < 4.5, errors
    rates = (mask.double().mean(dim=(0, 1)) - (1 - p)) / math.sqrt(p * (1 - p) / 1024)
    assert rates.abs().max() < 5
    assert 0.8 < rates.var() < 1.2


def test_pairs_modules_and_seeds_that_differ_by_one_are_independent():
    shape = (64, 8, 64)
    near = torch.arange(64)
    masks = [
        kept(shape, 0.5, near),
        kept(shape, 0.5, near, "other"),
        kept(shape, 0.5, near + 64),
        kept(shape, 0.5, near).roll(1, dims=0),
    ]
    for i, one in enumerate(masks):
        for other in masks[:i]:
            agreement = (one == other).double().mean()
            assert abs(agreement - 0.5) < 4.5 * 0.5 / math.sqrt(one.numel())


def test_what_is_left_is_scaled_and_nothing_else_changes():
    x = torch.randn(4, 5, 6)
    module = named(0.25)
    out = module(x, SEEDS)
    mask = out != 0
    assert torch.allclose(out[mask], x[mask] / 0.75)
    assert 0.5 < mask.double().mean() < 0.95
    assert module.eval()(x, SEEDS) is x
    assert named(0.0)(x) is x
    assert not torch.equal(out[0], out[1])


def test_a_mask_never_changes_between_releases():
    """A run continued after an upgrade must drop the same elements."""
    mask = kept((4, 2, 16), 0.5, SEEDS).reshape(-1, 32).int()
    assert ["".join(map(str, row)) for row in mask.tolist()] == [
        "01101010100100000011110101111010",
        "10011000000100111001111000010011",
        "00110110101010001000011000100101",
        "11110001011101111110011010101111",
    ]


def test_neighbours_padding_and_the_batch_do_not_count():
    whole = kept((8, 3, 5, 7), 0.5, SEEDS)  # two rows a pair
    for pair in range(4):
        alone = kept((2, 3, 5, 7), 0.5, SEEDS[pair : pair + 1])
        assert torch.equal(alone, whole[2 * pair : 2 * pair + 2])
    longer = kept((8, 4, 9, 11), 0.5, SEEDS)
    assert torch.equal(longer[:, :3, :5, :7], whole)
    assert torch.equal(kept((8, 3, 5, 7), 0.5, SEEDS[[2, 0, 1, 3]])[:2], whole[4:6])
    # a pair's rows are told apart, and by their number alone
    assert not torch.equal(whole[0], whole[1])
    assert torch.equal(kept((12, 3, 5, 7), 0.5, SEEDS)[[0, 1, 3, 4, 6, 7, 9, 10]], whole)


def test_working_in_parts_changes_nothing(monkeypatch: pytest.MonkeyPatch):
    whole = kept((8, 3, 50), 0.5, SEEDS)
    monkeypatch.setattr(dropout, "_CHUNK", 350)
    assert torch.equal(kept((8, 3, 50), 0.5, SEEDS), whole)
    assert kept((4,), 0.5, SEEDS).shape == (4,)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_mask_is_the_same_in_every_precision(dtype: torch.dtype):
    expected = kept((4, 3, 40), 0.5, SEEDS)
    out = named()(torch.ones(4, 3, 40, dtype=dtype), SEEDS)
    assert out.dtype == dtype
    assert torch.equal(out != 0, expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(named()(torch.ones(4, 3, 40), SEEDS) != 0, expected)


@pytest.mark.gpu
def test_the_mask_is_the_same_on_a_gpu():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    expected = kept((8, 3, 4000), 0.1, SEEDS)
    out = named(0.1)(torch.ones(8, 3, 4000, device="cuda"), SEEDS)
    assert torch.equal(out.cpu() != 0, expected)


def test_gradients_follow_the_mask_also_where_a_block_is_computed_twice():
    torch.manual_seed(0)
    model = Part()
    install_sample_dropout(model)
    dropout_seeds(model, SEEDS)
    grads = []
    for again in (False, True):
        x = torch.ones(8, 6, 16, requires_grad=True)
        out = checkpoint(model, x, use_reentrant=False) if again else model(x)
        assert isinstance(out, Tensor)
        torch.rand(3)  # what others draw in between does not count
        out.square().sum().backward()
        grads.append((out.detach(), x.grad, model.inner[1].weight.grad))
        model.zero_grad()
    for plain, checkpointed in zip(*grads, strict=True):
        assert torch.equal(plain, checkpointed)
    assert 0.2 < (grads[0][0] == 0).double().mean() < 0.4


def test_installing_replaces_every_dropout_once():
    model = Part(0.2)
    shared = nn.ModuleDict({"one": model, "two": nn.Sequential(model.drop, SampleDropout(0.4))})
    before = shared.state_dict().keys()
    install_sample_dropout(shared)
    assert not any(type(module) is nn.Dropout for module in shared.modules())
    found = {m.name: m.p for m in shared.modules() if isinstance(m, SampleDropout)}
    assert found == {"one.inner.0": 0.2, "one.drop": 0.2, "two.1": 0.4}
    assert shared["two"][0] is shared["one"].drop  # type: ignore[index]
    assert shared.state_dict().keys() == before
    dropout_seeds(shared, SEEDS)
    x = torch.ones(4, 6, 16)
    out = shared["one"](x)
    assert not torch.equal(out == 0, shared["two"](x) == 0)
    # A copy, and the model installed again in a larger one, stay in step with their seeds.
    twin = copy.deepcopy(shared)
    dropout_seeds(shared, SEEDS + 1)
    assert torch.equal(twin["one"](x), shared["one"](x))
    install_sample_dropout(nn.ModuleDict({"model": shared}))
    assert isinstance(shared["one"].drop, SampleDropout)
    assert shared["one"].drop.name == "model.one.drop"


def test_probabilities_that_cannot_be_seeded_are_silenced(caplog: pytest.LogCaptureFixture):
    config = T5Config(
        vocab_size=32, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2, dropout_rate=0.3,
        decoder_start_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = T5ForConditionalGeneration(config).train()
    with caplog.at_level(logging.DEBUG, logger="gcg.dropout"):
        install_sample_dropout(model)
    assert "encoder.block.0.layer.0.SelfAttention.dropout: 0.3 set to 0" in caplog.text
    ids, labels = torch.arange(8).reshape(2, 4), torch.arange(6).reshape(2, 3)
    losses = []
    for order in ([0, 1], [1, 0]):
        dropout_seeds(model, SEEDS[order])
        logits = model(input_ids=ids[order], labels=labels[order]).logits
        losses.append(F.cross_entropy(logits.mT, labels[order], reduction="none")[order])
    # The rows are the same but for float32 rounding, in whatever order they come.
    assert torch.allclose(losses[0], losses[1], atol=1e-6)
    dropout_seeds(model, SEEDS[2:])
    other = model(input_ids=ids, labels=labels).logits
    assert (F.cross_entropy(other.mT, labels, reduction="none") - losses[0]).abs().max() > 0.01


def test_a_dropout_that_follows_the_rank_is_told(caplog: pytest.LogCaptureFixture):
    install_sample_dropout(nn.ModuleDict({"image": nn.Dropout2d(0.1)}))
    assert "image: Dropout2d follows the rank" in caplog.text


def test_seeds_must_be_there_and_fit():
    module = named()
    with pytest.raises(ValueError, match=r"call dropout_seeds\(model, noise_seeds\)"):
        module(torch.ones(4, 2))
    module.set_seeds(SEEDS)
    with pytest.raises(ValueError, match="6 rows for the seeds of 4 pairs"):
        module(torch.ones(6, 2))
    with pytest.raises(ValueError, match=r"dropout = 1\.0: must be at least 0 and less than 1"):
        SampleDropout(1.0)
    dropout_seeds(nn.Linear(2, 2), SEEDS)  # nothing to seed
