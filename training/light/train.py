"""Trains the small model: `python -m training.light.train --material FOLDER --output FOLDER`.

It begins with the weights of LiteMedSAM (`training.light.initial`), and learns from photographs
with masks, from collages of cut-outs and photographs (`training.light.collages`), and from drawn
scenes (`training.scenes`). The training lasts as long as it is told to, and the learning rate
follows the time. The moving average of the weights goes to `small.pth`, under the official names.
"""

from __future__ import annotations

import argparse
import time
from collections import deque
from pathlib import Path

import torch
from hqsam_export.modeling import HQSamModel
from torch import nn

from training import losses, options
from training.light import measure, prompts
from training.light.initial import new_model
from training.light.material import Material
from training.light.samples import Batch, Source

DECAY = 0.99
"""Decay of the moving average of the weights, per step."""

MASKED, DRAWN = 0.4, 0.2
"""Shares of photographs with masks, and of drawn scenes; the rest are collages."""

NEW = ("hf_token", "hf_mlp", "compress_vit_feat", "embedding_encoder", "embedding_maskfeature")
"""Layers that only HQ-SAM has; they begin from nothing, and learn faster."""


def main() -> None:
    """Train."""
    parser = options.parser(__doc__)
    parser.add_argument(
        "--material", type=Path, required=True, help="cutouts/, photos/ and masked/"
    )
    parser.add_argument("--start", type=Path, help="weights to begin with")
    parser.add_argument(
        "--labelled", type=Path, action="append", default=[], help="see training.light.measure"
    )
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--steps", type=int, help="end after so many steps, for a trial")
    parser.add_argument("--images", type=int, default=24, help="images in a batch")
    parser.add_argument("--prompts", type=int, default=4, help="prompts on an image")
    parser.add_argument("--rate", type=float, default=3e-4, help="highest learning rate")
    parser.add_argument("--measure-every", type=float, default=90, metavar="SECONDS")
    train(options.parsed(parser))


def train(args: argparse.Namespace) -> None:
    """Train until the time is over, and write the weights."""
    began = time.monotonic()
    model = new_model(args.start).to(args.device).train()
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(DECAY), use_buffers=True
    )
    optimizer = torch.optim.AdamW(_groups(model), betas=(0.9, 0.98), weight_decay=0.02)
    source = Source(Material.read(args.material, args.device), args.seed, args.workers, args.device)
    labelled = {folder.name: measure.read(folder) for folder in args.labelled}
    print(f"ready after {time.monotonic() - began:.0f} s", flush=True)
    step, start, measured = 0, time.monotonic(), time.monotonic()
    recent: deque[dict[str, float]] = deque(maxlen=25)
    while (done := (time.monotonic() - start) / (60 * args.minutes)) < 1 and step != args.steps:
        for group in optimizer.param_groups:
            group["lr"] = args.rate * group["factor"] * schedule(step, done)
        masked, drawn = round(MASKED * args.images), round(DRAWN * args.images)
        batch = source.batch(args.images, args.prompts, masked, drawn, new=1)
        optimizer.zero_grad()
        figures = backward(model, batch, rounds=2 + step % 2)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        average.update_parameters(model)
        step += 1
        recent.append(figures)
        if step % 25 == 0 or step == args.steps:
            means = {name: sum(it[name] for it in recent) / len(recent) for name in figures}
            shown = "  ".join(f"{name} {mean:.3f}" for name, mean in means.items())
            pace = (time.monotonic() - start) / step
            print(f"{step}  {shown}  {pace:.2f} s a step", flush=True)
        if time.monotonic() - measured > args.measure_every:
            _report(step, average, labelled, args.output)
            measured = time.monotonic()
    _report(step, average, labelled, args.output)


def _report(
    step: int, average: nn.Module, labelled: dict[str, list[measure.Labelled]], output: Path
) -> None:
    """Save the weights, and print how good they are."""
    model: HQSamModel = average.module  # type: ignore[assignment]
    torch.save(model.state_dict(), output / "small.pth")
    model.eval()
    for name, images in labelled.items():
        print(f"{step}  {name}: {measure.summary(model, images)}", flush=True)


def _groups(model: HQSamModel) -> list[dict[str, object]]:
    """Return the optimizer's groups: the encoder learns slowly, and what is new fast."""
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        is_new = any(part in name for part in NEW)
        factor = 0.7 if name.startswith("image_encoder") else 2.0 if is_new else 1.0
        groups.setdefault(factor, []).append(parameter)
    return [{"params": members, "factor": factor} for factor, members in groups.items()]


def schedule(step: int, done: float) -> float:
    """Return the factor of the learning rate: a ramp up, a plateau, and a ramp down."""
    return max(0.01, min(1.0, (step + 1) / 50, 2 * (1 - done)))


def backward(model: HQSamModel, batch: Batch, rounds: int) -> dict[str, float]:
    """Add the gradients of first prompts and of `rounds - 1` corrections; return figures."""
    device = batch.images.device.type
    figures = dict.fromkeys(("loss", "first", "corrected"), 0.0)
    with torch.autocast(device, torch.bfloat16):
        embeddings, interm = model.image_encoder(batch.images)
    # Each round's graph ends here, so that one round is in memory at a time.
    leaves = [x.detach().requires_grad_() for x in (embeddings, interm)]
    each = len(batch.masks) // len(batch.images)
    masks = batch.masks[:, None]  # [B * P, 1, 256, 256]
    coords, labels = batch.coords, batch.labels
    logits = torch.zeros_like(masks)
    has_mask = torch.zeros(len(masks), device=masks.device)
    for number in range(rounds):
        with torch.autocast(device, torch.bfloat16):
            hq_features = model.mask_decoder.hq_features(*leaves)
            hq, sam, scores = model.mask_decoder(
                leaves[0].repeat_interleave(each, dim=0),
                hq_features.repeat_interleave(each, dim=0),
                model.prompt_encoder.grid_encoding(),
                *model.prompt_encoder.embed_points(coords, labels),
                model.prompt_encoder.embed_masks(logits, has_mask),
            )
        hq, sam = hq.float(), sam.float()
        sam_losses = losses.mask_loss(sam, masks)  # [P, 4]
        scored = (scores.float() - losses.iou(sam, masks)) ** 2
        loss = (
            losses.mask_loss(hq, masks).mean()
            + 0.5 * sam_losses[:, 0].mean()
            + 0.5 * sam_losses[:, 1:].min(dim=1).values.mean()
            + 0.25 * scored.mean()
        ) / rounds
        loss.backward()
        figures["loss"] += loss.item()
        figures["corrected" if number else "first"] = losses.iou(hq, masks).mean().item()
        if number + 1 < rounds:
            added, kinds = prompts.corrections(hq[:, 0].detach(), batch.masks > 0.5)
            coords, labels = prompts.with_clicks(coords, labels, added, kinds)
            # Users refine with the earlier logits and without them.
            has_mask = (torch.rand_like(has_mask) < 0.7).float()
            logits = hq.detach().clamp(-20, 20)
    torch.autograd.backward(
        [embeddings, interm],
        [leaf.grad for leaf in leaves],
    )
    return figures


if __name__ == "__main__":
    main()
