"""HQ-SAM in Label Studio: a click, a box or a stroke becomes a brush mask."""
