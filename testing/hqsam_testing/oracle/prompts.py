"""The prompts of the oracle, in pixels of the original image.

Each maps a name to keyword arguments of the reference predictor: points as
(x, y) in relative units of width and height (scaled by `pixels`), labels
1 = foreground and 0 = background, box as (x0, y0, x1, y1). `refine` feeds the
low-resolution logits of the prompt it names back as the mask input.
"""

from __future__ import annotations

from typing import Any

PROMPTS: dict[str, dict[str, Any]] = {
    "point": {"points": [(0.35, 0.45)], "labels": [1]},
    "point_and_background": {"points": [(0.35, 0.45), (0.72, 0.55)], "labels": [1, 0]},
    "box": {"box": (0.58, 0.22, 0.86, 0.88)},
    "box_and_point": {"box": (0.58, 0.22, 0.86, 0.88), "points": [(0.72, 0.25)], "labels": [0]},
    "six_points": {
        "points": [(0.1, 0.1), (0.9, 0.9), (0.5, 0.5), (0.2, 0.8), (0.8, 0.2), (0.33, 0.4)],
        "labels": [1, 0, 1, 1, 0, 1],
    },
    "refine": {"points": [(0.35, 0.45)], "labels": [1], "refine": "point"},
}


def pixels(prompt: dict[str, Any], width: int, height: int) -> dict[str, Any]:
    """Scale a prompt's relative coordinates to pixels of a width x height image."""
    scaled = dict(prompt)
    if "points" in prompt:
        scaled["points"] = [(x * width, y * height) for x, y in prompt["points"]]
    if "box" in prompt:
        x0, y0, x1, y1 = prompt["box"]
        scaled["box"] = (x0 * width, y0 * height, x1 * width, y1 * height)
    return scaled
