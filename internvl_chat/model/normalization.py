"""uint8 tiles -> normalised float tiles.

Tiles stay uint8 until they are on the device: a quarter of the bytes to keep and to copy, and the same result.
"""

import torch

from .constants import NORMALIZATIONS


def normalize_tiles(tiles: torch.Tensor, normalize_type: str = "imagenet") -> torch.Tensor:
    """Return `(tiles / 255 - mean) / std`, bit for bit what float preprocessing on the host gives.

    Args:
        tiles: (T, 3, H, W) uint8, RGB, on any device.
        normalize_type: "imagenet", "clip" or "siglip".

    Returns:
        (T, 3, H, W) float32.

    Raises:
        ValueError: the tiles are not uint8 (they may be normalised already), or the type is unknown.
    """
    if tiles.dtype != torch.uint8:
        raise ValueError(f"normalize_tiles takes uint8 tiles, got {tiles.dtype}: were they normalised before?")
    if normalize_type not in NORMALIZATIONS:
        raise ValueError(f"unknown normalize_type {normalize_type!r}; known: {', '.join(NORMALIZATIONS)}")
    mean, std = (
        torch.tensor(values, dtype=torch.float32, device=tiles.device).view(3, 1, 1)
        for values in NORMALIZATIONS[normalize_type]
    )
    # The divisor is a tensor on the device: CUDA divides by a Python number through its reciprocal, off by one ulp.
    scale = torch.full((), 255.0, dtype=torch.float32, device=tiles.device)
    return (tiles.to(torch.float32) / scale - mean) / std
