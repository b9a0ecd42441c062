"""HQ-SAM in napari: points and boxes become labels."""
