"""Train the image-text encoder of the ``tiny`` preset on the sample corpus's frames and sentences.

    python -m examples.train_tiny_encoder --out gcg/assets [--steps 4000 --scenes 2500]

It learns, contrastively, which frames a sentence is about: statements of one event, an object or
an action alone, questions, and sentences that join two events (whose frames both count as right,
as they would to an image-text model that knows no order of time). Scenes come from seeds no demo
uses. Writes the weights (fp16), the tokenizer and the retrieval accuracy on scenes of yet other
seeds.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor, nn

from dataloaders.moments.render import frames_at
from dataloaders.moments.scene import ACTIONS, COLOURS, KINDS, make_scene, rng_for
from dataloaders.transform import preprocess
from gcg.presets import VOCABULARY, tiny
from gcg.text import TextTower
from gcg.vision import VisionTower

TRAIN_SEED, TEST_SEED = 90_001, 90_002
SIZE = 96
log = logging.getLogger("train_tiny_encoder")

Actor = tuple[str, str]
NOTHING = ("nothing", "nothing", "nothing")


@dataclass
class Frames:
    """Rendered frames: uint8 (N, 3, 96, 96), and what each shows as (colour, kind, action)."""

    pixels: Tensor
    shows: list[tuple[str, str, str]]


def render_scene(job: tuple[int, int]) -> tuple[np.ndarray, list[tuple[str, str, str]]]:
    """Two moments of each event and one of background, preprocessed as the decoder does it."""
    seed, number = job
    scene = make_scene(seed, f"clip-{number}")
    rng = rng_for("encoder", seed, number)
    times, shows = [], []
    for event in scene.events:
        for _ in range(2):
            times.append(rng.uniform(event.start, event.end - 1e-3))
            shows.append((event.colour, event.kind, event.action))
    gap = scene.events[0].start * 0.5
    if scene.event_at(gap) is None:
        times.append(gap)
        shows.append(NOTHING)
    frames = np.stack(list(frames_at(scene, times)))
    plain = preprocess(torch.from_numpy(frames), SIZE, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    return (plain * 255).round().clamp(0, 255).byte().numpy(), shows


def render(seed: int, num_scenes: int) -> Frames:
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        parts = list(pool.map(render_scene, [(seed, i) for i in range(num_scenes)], chunksize=32))
    return Frames(
        torch.from_numpy(np.concatenate([pixels for pixels, _ in parts])),
        [what for _, shows in parts for what in shows],
    )


@dataclass(frozen=True)
class Caption:
    """A sentence, and what a frame must show for it to be right: any of ``about``.

    An empty string inside an entry matches anything.
    """

    text: str
    about: tuple[tuple[str, str, str], ...]


def fitting(shows: list[tuple[str, str, str]], captions: list[Caption]) -> Tensor:
    """Whether frame i is one that caption j is about, bool (frames, captions)."""
    seen = np.array(shows)[:, None, None, :]
    wanted = np.array([[c.about[0], c.about[-1]] for c in captions])[None]
    return torch.from_numpy(((wanted == "") | (wanted == seen)).all(-1).any(-1))


def caption(rng: np.random.Generator, shown: tuple[str, str, str]) -> Caption:
    """One of the ways to speak of a frame, drawn at random."""
    if shown == NOTHING:
        return Caption("An empty scene.", (NOTHING,))
    colour, kind, action = shown
    actor = f"the {colour} {kind}"
    draw = rng.random()
    if draw < 0.45:
        text = f"{actor} {action}"
        return Caption(text[0].upper() + text[1:] + "." if rng.random() < 0.7 else text, (shown,))
    if draw < 0.58:
        texts = (f"What does {actor} do?", actor)
        return Caption(texts[rng.integers(2)], ((colour, kind, ""),))
    if draw < 0.71:
        texts = (f"Which object {action}?", action)
        return Caption(texts[rng.integers(2)], (("", "", action),))
    side = rng.choice(["before", "after"])
    if draw < 0.80:
        return Caption(f"What happens right {side} {actor} {action}?", (shown,))
    other = _other(rng, shown)
    first, second = (shown, other) if rng.random() < 0.5 else (other, shown)
    text = f"the {first[0]} {first[1]} {first[2]} right {side} the {second[0]} {second[1]} "
    text += second[2]
    return Caption(text[0].upper() + text[1:] + ".", (first, second))


def _other(rng: np.random.Generator, shown: tuple[str, str, str]) -> tuple[str, str, str]:
    while True:
        other = (rng.choice(list(COLOURS)), rng.choice(KINDS), rng.choice(ACTIONS))
        if other[:2] != shown[:2]:
            return other


def train_tokenizer() -> Tokenizer:
    """Byte-level BPE: the corpus's words become single tokens, any other text stays spellable."""
    rng = rng_for("encoder", "tokenizer")
    sentences = []
    for _ in range(20_000):
        shown = (rng.choice(list(COLOURS)), rng.choice(KINDS), rng.choice(ACTIONS))
        sentences.append(caption(rng, shown).text)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<pad>", "<bos>", "<mask>", "<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sentences, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 1), ("<eos>", 3)]
    )
    return tokenizer


class Encoder(nn.Module):
    """Both towers and the temperature of their similarity."""

    def __init__(self) -> None:
        super().__init__()
        preset = tiny()
        self.vision = VisionTower(preset.vision, preset.joint_width)
        self.text = TextTower(preset.text)
        self.log_scale = nn.Parameter(torch.tensor(np.log(12.0), dtype=torch.float32))

    def embed(self, pixels: Tensor, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        image = nn.functional.normalize(self.vision(pixels)[1], dim=-1)
        return image, nn.functional.normalize(self.text(ids, mask)[1], dim=-1)


def tokens(tokenizer: Tokenizer, texts: list[str]) -> tuple[Tensor, Tensor]:
    tokenizer.enable_padding(pad_id=0, pad_token="<pad>")
    encoded = tokenizer.encode_batch(texts)
    ids = torch.tensor([e.ids for e in encoded])
    return ids, torch.tensor([e.attention_mask for e in encoded])


def normalise(pixels: Tensor) -> Tensor:
    from dataloaders.transform import CLIP_MEAN, CLIP_STD

    mean, std = torch.tensor(CLIP_MEAN), torch.tensor(CLIP_STD)
    return (pixels.float() / 255 - mean[:, None, None]) / std[:, None, None]


def augment(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Shift by up to 4 pixels and add a little noise: what encoding and cropping do to a frame."""
    padded = nn.functional.pad(pixels.float(), (4, 4, 4, 4), mode="replicate")
    dy, dx = torch.randint(0, 9, (2,), generator=generator).tolist()
    shifted = padded[..., dy : dy + SIZE, dx : dx + SIZE]
    return shifted + 4 * torch.randn(shifted.shape, generator=generator)


def loss_of(encoder: Encoder, image: Tensor, text: Tensor, right: Tensor) -> Tensor:
    """Contrastive cross-entropy both ways; every frame a sentence fits shares its target."""
    logits = encoder.log_scale.exp().clamp(max=60) * image @ text.T
    by_text = right.float()
    forward = -(by_text / by_text.sum(0) * logits.log_softmax(0)).sum(0).mean()
    backward = -(by_text / by_text.sum(1, keepdim=True) * logits.log_softmax(1)).sum(1).mean()
    return (forward + backward) / 2


def train(encoder: Encoder, tokenizer: Tokenizer, data: Frames, steps: int, batch: int) -> None:
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=1e-3, weight_decay=0.05, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 1e-3, total_steps=steps, pct_start=0.1
    )
    rng, generator = rng_for("encoder", "batches"), torch.Generator().manual_seed(0)
    began = time.time()
    for step in range(steps):
        picks = rng.choice(len(data.shows), batch, replace=False)
        shows = [data.shows[i] for i in picks]
        captions = [caption(rng, what) for what in shows]
        right = fitting(shows, captions)
        pixels = normalise(augment(data.pixels[picks], generator))
        with torch.autocast("cpu", torch.bfloat16):
            image, text = encoder.embed(pixels, *tokens(tokenizer, [c.text for c in captions]))
        loss = loss_of(encoder, image.float(), text.float(), right)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            log.info(
                "step %d loss %.3f  %.2f s/step", step, loss.item(), (time.time() - began) / 100
            )


@torch.no_grad()
def retrieval(encoder: Encoder, tokenizer: Tokenizer, data: Frames) -> dict[str, float]:
    """Share of frames whose own sentence ranks first among all 480 statements, and per part."""
    encoder.eval()
    every = [(c, k, a) for c in COLOURS for k in KINDS for a in ACTIONS]
    ids, mask = tokens(tokenizer, [f"The {c} {k} {a}." for c, k, a in every])
    keep = [i for i, what in enumerate(data.shows) if what != NOTHING]
    text = nn.functional.normalize(encoder.text(ids, mask)[1], dim=-1)
    hits = np.zeros(4)
    for start in range(0, len(keep), 256):
        rows = keep[start : start + 256]
        joint = encoder.vision(normalise(data.pixels[rows]))[1]
        best = (nn.functional.normalize(joint, dim=-1) @ text.T).argmax(1).tolist()
        for row, pick in zip(rows, best, strict=True):
            same = [a == b for a, b in zip(every[pick], data.shows[row], strict=True)]
            hits += [all(same), *same]
    names = ("statement_top1_of_480", "colour", "kind", "action")
    return {name: round(hit / len(keep), 4) for name, hit in zip(names, hits, strict=True)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--scenes", type=int, default=2500)
    parser.add_argument("--batch", type=int, default=96)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.manual_seed(0)
    tokenizer = train_tokenizer()
    log.info("rendering %d scenes", args.scenes)
    data, held_out = render(TRAIN_SEED, args.scenes), render(TEST_SEED, 200)
    encoder = Encoder()
    log.info("%d parameters", sum(p.numel() for p in encoder.parameters()))
    train(encoder, tokenizer, data, args.steps, args.batch)
    encoder.half().float()  # what is measured is what is shipped
    scores = retrieval(encoder, tokenizer, held_out)
    log.info("held-out retrieval: %s", scores)
    args.out.mkdir(parents=True, exist_ok=True)
    state = {k: v.half().contiguous() for k, v in encoder.state_dict().items() if k != "log_scale"}
    state = {k: v for k, v in state.items() if "position_ids" not in k}
    save_file(state, args.out / "tiny_encoder.safetensors", metadata={"format": "pt"})
    tokenizer.no_padding()
    tokenizer.save(str(args.out / "tiny_tokenizer.json"))
    record = {"steps": args.steps, "scenes": args.scenes, "seeds": [TRAIN_SEED, TEST_SEED]}
    (args.out / "tiny_encoder.json").write_text(json.dumps({**record, **scores}, indent=2) + "\n")


if __name__ == "__main__":
    main()
