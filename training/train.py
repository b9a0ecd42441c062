"""Trains the small model from scratch: `python -m training.train --output FOLDER`.

It resumes from `FOLDER/state.pt`; the same steps and seed give the same samples. The weights
go to `FOLDER/small.pth`, under the official names.

The model learns within hours on two cores because of:
- initial layers that already do something useful (`training.initial`);
- many small squares first, larger ones and whole images later (`training.samples.STAGES`), and
  scenes from flat colours to textures;
- a loss in which small objects count (`training.losses.mask_loss`), on the HQ mask, and at half
  weight on SAM's first mask; of SAM's other three, the best one gets the loss, as in SAM;
- an auxiliary loss on the neck's output: tokens of one object are alike, others are not.
"""

from __future__ import annotations

import argparse
import time
from collections import deque
from dataclasses import dataclass

import torch
from hqsam_client import contract
from hqsam_export.modeling import Architecture, HQSamModel, ViT
from hqsam_export.modeling.image_encoder import take
from torch import Tensor, nn
from torch.utils.data import DataLoader

from training import losses, options
from training.initial import new_model
from training.samples import PATCH, Batch, Batches

SMALL = Architecture(
    ViT(width=160, depth=6, heads=5, global_blocks=(2, 5)),
    mlp_width=512,
    box_centre=True,
)

CROP = 28
"""Tokens along a side of the part that is upscaled and compared; upscaling is local."""

DECAY = 0.999
"""Decay of the moving average of the weights, per step."""


def main() -> None:
    """Train, or resume training."""
    parser = options.parser(__doc__)
    parser.add_argument("--steps", type=int, default=7900)
    parser.add_argument("--rate", type=float, default=1e-3, help="highest learning rate")
    train(options.parsed(parser))


def train(args: argparse.Namespace) -> None:
    """Run the remaining steps, and write the weights."""
    model = new_model(SMALL).to(args.device)
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
    loader = DataLoader(
        Batches(args.steps, args.seed),
        sampler=range(start, args.steps),
        batch_size=None,
        num_workers=args.workers,
        prefetch_factor=8 if args.workers else None,
    )
    recent: deque[dict[str, float]] = deque(maxlen=100)
    began = time.monotonic()
    for step, batch in enumerate(loader, start):
        for group in optimizer.param_groups:
            group["lr"] = args.rate * schedule(step, args.steps)
        optimizer.zero_grad()
        loss, figures = batch_loss(model, batch.to(args.device), rounds(step, args.steps))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        average.update_parameters(model)
        recent.append(figures)
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


def schedule(step: int, steps: int) -> float:
    """Return the factor of the learning rate: a ramp up, a plateau, and a ramp down."""
    return min(1.0, (step + 1) / 200, 3 * (steps - step) / steps)


def rounds(step: int, steps: int) -> int:
    """Return how often a step decodes its prompts: once, or again with corrections."""
    return 1 if step < steps // 4 else (1, 2, 1, 3)[step % 4]


@dataclass
class _Prompts:
    """Prompts as `PromptEncoder` takes them, on squares of the input frame."""

    coords: Tensor  # [P, N, 2]
    labels: Tensor  # [P, N]
    logits: Tensor  # [P, 1, 4 * S, 4 * S]
    has_mask: Tensor  # [P]


def batch_loss(model: HQSamModel, batch: Batch, rounds: int) -> tuple[Tensor, dict[str, float]]:
    """Return the loss of first prompts and of `rounds - 1` corrections, and figures."""
    figures: dict[str, float] = {}
    corners = [(int(row), int(column)) for row, column in batch.corners.tolist()]
    with torch.autocast(batch.images.device.type, torch.bfloat16):
        embeddings, interm = model.image_encoder(batch.images, corners)
        hq_features = model.mask_decoder.hq_features(embeddings, interm)
        grid = model.prompt_encoder.grid_encoding()
    loss = similarity = losses.similarity_loss(embeddings, batch.masks, batch.anchors)
    # From here on, each prompt has its own copy of the image.
    each = len(batch.masks) // len(batch.images)
    grid = grid.unflatten(1, (contract.EMBEDDING_SIZE, -1))
    image_pe = take(grid, corners, embeddings.shape[-1]).flatten(1, 2)
    image_pe, embeddings, hq_features, origins = (
        x.repeat_interleave(each, dim=0) for x in (image_pe, embeddings, hq_features, batch.corners)
    )
    prompts = _Prompts(
        batch.point_coords,
        batch.point_labels,
        torch.zeros_like(batch.masks),
        torch.zeros(len(batch.masks), device=batch.masks.device),
    )
    cut = crops(batch)
    for number in range(rounds):
        with torch.autocast(batch.images.device.type, torch.bfloat16):
            tokens, image = model.mask_decoder.attend(
                embeddings,
                image_pe,
                *model.prompt_encoder.embed_points(prompts.coords, prompts.labels),
                model.prompt_encoder.embed_masks(prompts.logits, prompts.has_mask),
            )
            hq, sam, scores = model.mask_decoder.masks(
                tokens, cut_out(image, cut, 1), cut_out(hq_features, cut, 4)
            )
        masks = cut_out(batch.masks, cut, 4)
        sam_losses = losses.mask_loss(sam.float(), masks)  # [P, 4]
        scored = (scores.float() - losses.iou(sam, masks)) ** 2
        loss = loss + (
            losses.mask_loss(hq.float(), masks).mean()
            + 0.5 * sam_losses[:, 0].mean()
            + 0.25 * sam_losses[:, 1:].min(dim=1).values.mean()
            + 0.25 * scored.mean()
        )
        figures["corrected" if number else "first"] = losses.iou(hq, masks).mean().item()
        if number + 1 < rounds:
            prompts = corrected(prompts, batch, origins, hq.detach().float(), cut)
    figures |= {"loss": loss.item() / (1 + rounds), "similarity": similarity.item()}
    return loss / (1 + rounds), figures


def crops(batch: Batch) -> Tensor | None:
    """Return where to cut each prompt's part, [P, 2] (row, column) in tokens; None for all.

    The anchor is at a random place in its part.
    """
    side = batch.images.shape[-1] // PATCH
    if side <= CROP:
        return None
    offsets = torch.randint(CROP, batch.anchors.shape, device=batch.anchors.device)
    return (batch.anchors - offsets).clamp(0, side - CROP)


def cut_out(maps: Tensor, cut: Tensor | None, scale: int) -> Tensor:
    """Cut [P, C, H, W] to [P, C, scale * CROP, scale * CROP]."""
    if cut is None:
        return maps
    size = scale * CROP
    return torch.stack(
        [
            one[:, scale * row : scale * row + size, scale * column : scale * column + size]
            for one, (row, column) in zip(maps, cut.tolist(), strict=True)
        ]
    )


def corrected(
    prompts: _Prompts, batch: Batch, origins: Tensor, logits: Tensor, cut: Tensor | None
) -> _Prompts:
    """Return the prompts with one correcting click each, and the logits that it corrects."""
    whole, known = logits, batch.masks
    if cut is not None:
        # Outside of the part, no pixel is an error.
        whole, known = torch.full_like(batch.masks, -10.0), torch.zeros_like(batch.masks)
        size = logits.shape[-1]
        for number, (row, column) in enumerate((4 * cut).tolist()):
            part = (number, 0, slice(row, row + size), slice(column, column + size))
            whole[part], known[part] = logits[number, 0], batch.masks[part]
    coords, labels = losses.corrections(whole, known, origins)
    # Users refine with the earlier logits and without them.
    keep = (torch.rand(len(logits), device=logits.device) < 0.7).float()
    # Padding goes last: the first padding point has its own token.
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
