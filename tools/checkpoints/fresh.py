"""What a checkpoint that is made here starts from: tokens of images, forms of the vision tower, drawn weights."""

from __future__ import annotations

import torch
from torch import nn

from internvl_chat.model import constants

IMAGE_TOKENS = [
    constants.IMG_START_TOKEN,
    constants.IMG_END_TOKEN,
    constants.IMG_CONTEXT_TOKEN,
    constants.QUAD_START_TOKEN,
    constants.QUAD_END_TOKEN,
    constants.REF_START_TOKEN,
    constants.REF_END_TOKEN,
    constants.BOX_START_TOKEN,
    constants.BOX_END_TOKEN,
]
# What differs between the two forms of InternViT.
VIT_FORMS = {
    "300M": {"norm_type": "layer_norm", "qkv_bias": True, "qk_normalization": False},
    "6B": {"norm_type": "rms_norm", "qkv_bias": False, "qk_normalization": True},
}


@torch.no_grad()
def draw_weights(model: nn.Module, seed: int) -> None:
    """Fill the model in place: matrices and embeddings normal, layer scales 0.5, norms 1, biases 0.

    The standard deviation is 1/sqrt(fan-in): for an embedding its width, for a convolution its whole patch.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if name.endswith((".ls1", ".ls2")):
            parameter.fill_(0.5)
        elif name.endswith(("class_embedding", "position_embedding")):
            parameter.normal_(generator=generator)
        elif parameter.dim() > 1:
            parameter.normal_(std=parameter[0].numel() ** -0.5, generator=generator)
        else:
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)
