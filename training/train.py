"""Trains the small model from scratch: `python -m training.train --output FOLDER`.

It goes on from `FOLDER/state.pt` where it was stopped; the same steps and seed give the
same samples. `FOLDER/small.pth` is written at the end, under the official names.

It is not good enough yet: 2,000 steps on two cores ended at a mean IoU of 0.15 for the first
prompt, inside of the square that is seen (#6). What it consists of:
- scenes from flat to textured, and mostly quarters of a picture (32 x 32 tokens): they cost
  a quarter and the attention a sixteenth. Whole pictures come mostly at the end.
- a loss in which object and surroundings weigh the same, on the HQ mask and at half weight
  on SAM's first; SAM's other three get theirs where they are best, as in SAM.
- an auxiliary loss on the neck's output: tokens of one object are alike, others are not.
- query and key projections from tokens to image that start equal, and position encodings
  of several scales: a click attends to its own place from the first step.
"""

from __future__ import annotations

import argparse
import math
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from hqsam_client import contract
from hqsam_export.modeling import Architecture, HQSamModel
from hqsam_export.modeling.hqsam import points_that_count
from hqsam_export.modeling.transformer import Attention
from torch import Tensor, nn
from torch.utils.data import DataLoader

from training import losses
from training.samples import PATCH, Sample, Samples

SMALL = Architecture(
    vit_width=160, vit_depth=6, vit_heads=5, global_blocks=(1, 3, 5), mlp_width=512
)

CROP = 32
"""Tokens along a side of the part that is upscaled and compared: upscaling is local."""

DECAY = 0.999
"""How much of the averaged weights stays at each step."""


def main() -> None:
    """Train, or go on with training."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, help="folder for state and weights")
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--prompts", type=int, default=8, help="prompts a picture")
    parser.add_argument("--pictures", type=int, default=1, help="pictures a step")
    parser.add_argument("--rate", type=float, default=6e-4, help="highest learning rate")
    parser.add_argument("--workers", type=int, default=1, help="processes that draw scenes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    train(args)


def train(args: argparse.Namespace) -> None:
    """Run the steps that are left, and write the weights."""
    model = new_model().to(args.device)
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(DECAY)
    )
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=args.rate, betas=(0.9, 0.98), weight_decay=0.02
    )
    state, start = args.output / "state.pt", 0
    if state.exists():
        saved = torch.load(state, map_location=args.device, weights_only=True)
        start = saved["step"]
        model.load_state_dict(saved["model"])
        average.load_state_dict(saved["average"])
        optimizer.load_state_dict(saved["optimizer"])
    samples = Samples(args.steps * args.pictures, args.prompts, args.seed)
    loader = DataLoader(
        samples,
        sampler=range(start * args.pictures, len(samples)),
        batch_size=None,
        num_workers=args.workers,
        prefetch_factor=8 if args.workers else None,
    )
    drawn = iter(loader)
    recent: deque[dict[str, float]] = deque(maxlen=100)
    began = time.monotonic()
    for step in range(start, args.steps):
        for group in optimizer.param_groups:
            group["lr"] = args.rate * schedule(step, args.steps)
        optimizer.zero_grad()
        for _ in range(args.pictures):
            loss, figures = sample_loss(model, next(drawn).to(args.device), step)
            (loss / args.pictures).backward()
            recent.append(figures)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        average.update_parameters(model)
        if (step + 1) % 100 == 0:
            means = {
                name: sum(values) / len(values)
                for name in ("loss", "similarity", "first", "corrected")
                if (values := [f[name] for f in recent if name in f])
            }
            shown = "  ".join(f"{name} {mean:.3f}" for name, mean in means.items())
            pace = (time.monotonic() - began) / (step + 1 - start)
            print(f"{step + 1}  {shown}  {pace:.2f} s a step", flush=True)
        if (step + 1) % 250 == 0 or step + 1 == args.steps:
            saved = {
                "step": step + 1,
                "model": model.state_dict(),
                "average": average.state_dict(),
                "optimizer": optimizer.state_dict(),
            }
            torch.save(saved, state.with_suffix(".part"))
            state.with_suffix(".part").replace(state)
            torch.save(average.module.state_dict(), args.output / "small.pth")


def new_model() -> HQSamModel:
    """Return a model that is ready to learn."""
    model = HQSamModel(SMALL)
    nn.init.trunc_normal_(model.image_encoder.pos_embed, std=0.02)
    matrix = model.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix
    # Wide and narrow position encodings: one scale sees where in the picture, one where
    # in the object.
    matrix *= torch.logspace(math.log10(0.5), math.log10(6), matrix.shape[1])
    transformer = model.mask_decoder.transformer
    for layer in transformer.layers:
        _point_at_itself(cast(Any, layer).cross_attn_token_to_image)
    _point_at_itself(transformer.final_attn_token_to_image)
    return model


def _point_at_itself(attention: Attention) -> None:
    with torch.no_grad():
        attention.q_proj.weight *= 2
        attention.k_proj.weight.copy_(attention.q_proj.weight)


def schedule(step: int, steps: int) -> float:
    """Return the learning rate's factor: a ramp up, a plateau, and a ramp down at the end."""
    return min(1.0, (step + 1) / 200, 3 * (steps - step) / steps)


@dataclass
class _Prompts:
    """Prompts as `PromptEncoder` takes them, on a square of the 1024 frame."""

    coords: Tensor  # [P, N, 2]
    labels: Tensor  # [P, N]
    logits: Tensor  # [P, 1, 4 * S, 4 * S]
    has_mask: Tensor  # [P]


def sample_loss(model: HQSamModel, sample: Sample, step: int) -> tuple[Tensor, dict[str, float]]:
    """Return the loss of a sample's first prompts and of their corrections, and figures.

    Half of the samples are corrected once and half of those twice.
    """
    rounds = (1, 2, 1, 3)[step % 4]
    figures: dict[str, float] = {}
    with torch.autocast(sample.image.device.type, torch.bfloat16):
        embeddings, interm = model.image_encoder(sample.image, sample.top, sample.left)
        hq_features = model.mask_decoder.hq_features(embeddings, interm)
    loss = similarity = losses.similarity_loss(embeddings, sample.masks, sample.anchors)
    prompts = _Prompts(
        sample.point_coords,
        sample.point_labels,
        torch.zeros_like(sample.masks),
        torch.zeros(len(sample.masks), device=sample.masks.device),
    )
    cut = crops(sample)
    for number in range(rounds):
        hq, sam, scores = decode(model, sample, embeddings, hq_features, prompts, cut)
        part = masks = sample.masks
        if cut is not None:
            part = take(masks, cut, masks.shape[-1] // embeddings.shape[-1])
        sam_losses = losses.mask_loss(sam.float(), part)  # [P, 4]
        scored = (scores.float() - losses.iou(sam, part)) ** 2
        loss = loss + (
            losses.mask_loss(hq.float(), part).mean()
            + 0.5 * sam_losses[:, 0].mean()
            + 0.25 * sam_losses[:, 1:].min(dim=1).values.mean()
            + 0.25 * scored.mean()
        )
        figures["corrected" if number else "first"] = losses.iou(hq, part).mean().item()
        if number + 1 < rounds:
            prompts = corrected(prompts, sample, hq.detach().float(), cut)
    figures |= {"loss": loss.item() / (1 + rounds), "similarity": similarity.item()}
    return loss / (1 + rounds), figures


def crops(sample: Sample) -> Tensor | None:
    """Return where to cut each prompt's part, [P, 2] (row, column) in tokens; None for all."""
    side = sample.image.shape[-1] // PATCH
    if side <= CROP:
        return None
    offsets = torch.randint(-CROP // 4, CROP // 4, sample.anchors.shape, device=sample.image.device)
    return (sample.anchors - CROP // 2 + offsets).clamp(0, side - CROP)


def take(maps: Tensor, cut: Tensor, scale: int) -> Tensor:
    """Cut [P or 1, C, H, W] to [P, C, scale * CROP, scale * CROP]."""
    maps = maps.expand(len(cut), *maps.shape[1:])
    size = scale * CROP
    return torch.stack(
        [
            one[:, scale * row : scale * row + size, scale * column : scale * column + size]
            for one, (row, column) in zip(maps, cut.tolist(), strict=True)
        ]
    )


def decode(
    model: HQSamModel,
    sample: Sample,
    embeddings: Tensor,
    hq_features: Tensor,
    prompts: _Prompts,
    cut: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Decode prompts on a square of the frame, the masks of a part of it."""
    side = embeddings.shape[-1]
    encoder = model.prompt_encoder
    with torch.autocast(sample.image.device.type, torch.bfloat16):
        grid = encoder.grid_encoding().unflatten(1, (contract.EMBEDDING_SIZE, -1))
        rows, columns = slice(sample.top, sample.top + side), slice(sample.left, sample.left + side)
        tokens, image = model.mask_decoder.attend(
            embeddings,
            grid[:, rows, columns].flatten(1, 2),
            encoder.embed_points(prompts.coords, prompts.labels),
            points_that_count(prompts.labels),
            encoder.embed_masks(prompts.logits, prompts.has_mask),
        )
        if cut is not None:
            image = take(image, cut, 1)
            hq_features = take(hq_features, cut, 4)
        return model.mask_decoder.masks(tokens, image, hq_features)


def corrected(prompts: _Prompts, sample: Sample, logits: Tensor, cut: Tensor | None) -> _Prompts:
    """Return the prompts with a correcting click each, and the logits that it corrects."""
    whole = logits
    if cut is not None:
        # Outside of the part nothing is known, and nothing is an error.
        whole = torch.full_like(sample.masks, -10.0)
        size = logits.shape[-1]
        for one, part, (row, column) in zip(whole, logits, cut.tolist(), strict=True):
            one[:, 4 * row : 4 * row + size, 4 * column : 4 * column + size] = part
    known = sample.masks if cut is None else torch.where(whole == -10.0, 0.0, sample.masks)
    coords, labels = losses.corrections(whole, known, sample.top, sample.left)
    # Refining with the earlier logits and without are both common.
    keep = (torch.rand(len(logits), device=logits.device) < 0.7).float()
    # Padding goes last: the first of it is a token of its own.
    order = torch.cat([prompts.labels, labels], dim=1) == contract.LABEL_PADDING
    index = order.int().argsort(dim=1, stable=True)
    return _Prompts(
        torch.cat([prompts.coords, coords], dim=1).gather(1, index[..., None].expand(-1, -1, 2)),
        torch.cat([prompts.labels, labels], dim=1).gather(1, index),
        whole.clamp(-20, 20),
        keep,
    )


if __name__ == "__main__":
    main()
