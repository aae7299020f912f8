import hashlib

import numpy as np
import pytest
import torch

from internvl_chat.model.constants import IMAGENET_MEAN, IMAGENET_STD
from internvl_chat.model.modeling_internvl import normalize_tiles


def test_bits_are_those_of_the_golden_pixels(qwen2):
    samples = qwen2.samples["templates"]["internvl2_5"]["samples"]
    for sample, info in samples.items():
        pixels = normalize_tiles(qwen2.tiles(sample)).numpy()
        assert hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest() == info["pixel_sha256_f32"], sample


def test_by_hand():
    tiles = torch.tensor([0, 255, 128], dtype=torch.uint8).view(1, 3, 1, 1)
    expected = [
        (value / 255 - mean) / std for value, mean, std in zip((0, 255, 128), IMAGENET_MEAN, IMAGENET_STD, strict=True)
    ]
    assert normalize_tiles(tiles).flatten().tolist() == pytest.approx(expected, rel=1e-6)
    assert normalize_tiles(tiles, "siglip").flatten().tolist() == pytest.approx([-1, 1, 2 * 128 / 255 - 1], abs=1e-6)


def test_float_tiles_are_refused():
    with pytest.raises(ValueError, match="float32.*normalised before"):
        normalize_tiles(torch.zeros(1, 3, 2, 2))


def test_unknown_type_names_the_known_ones():
    with pytest.raises(ValueError, match="'imagnet'; known: imagenet, clip, siglip"):
        normalize_tiles(torch.zeros(1, 3, 2, 2, dtype=torch.uint8), "imagnet")
