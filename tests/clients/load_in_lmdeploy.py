"""Run by lmdeploy's own interpreter: give it a checkpoint, as far as it goes without a GPU; prints one line of JSON.

python load_in_lmdeploy.py CHECKPOINT QUESTION IMAGE
"""

import json
import sys

import torch
from lmdeploy import __version__
from lmdeploy.archs import autoget_backend, get_model_arch, get_task
from lmdeploy.model import get_chat_template
from lmdeploy.pytorch.config import ModelConfig
from lmdeploy.pytorch.models.patch import build_patched_model
from lmdeploy.pytorch.weight_loader.model_weight_loader import load_model_weights
from lmdeploy.tokenizer import Tokenizer
from lmdeploy.turbomind.supported_models import is_supported
from lmdeploy.vl.model.builder import load_vl_model
from PIL import Image

TRUSTED = {"trust_remote_code": True}


def prompt_ids(folder, question, image):
    """Ids of a question about an image, as lmdeploy's engine of PyTorch gets them."""
    vision = load_vl_model(folder, "pytorch", **TRUSTED)
    vision.set_mm_feature_dtype(torch.float32)
    template, tokenizer = get_chat_template(folder, **TRUSTED), Tokenizer(folder, **TRUSTED)
    content = [{"type": "image", "data": image}, {"type": "text", "text": question}]
    messages = [{"role": "user", "content": content}]
    if hasattr(vision, "to_pytorch"):  # published layout
        return vision.to_pytorch(vision.preprocess(messages), template, tokenizer)["input_ids"]
    text = template.messages2prompt(messages)
    return vision.preprocess(messages, text)["input_ids"]


@torch.inference_mode()
def unset_weights(folder):
    """Names of weights of lmdeploy's model that the checkpoint leaves unset."""
    config = ModelConfig.from_pretrained(folder, dtype="float32", **TRUSTED)
    model = build_patched_model(config, device=torch.device("cpu"))
    for parameter in model.parameters():
        torch.nn.init.constant_(parameter, torch.nan)
    load_model_weights(model, folder, device=torch.device("cpu"))
    return [name for name, parameter in model.named_parameters() if parameter.isnan().any()]


def main(folder, question, image):
    """Say what lmdeploy makes of the checkpoint."""
    torch.set_num_threads(1)
    result = {
        "version": __version__,
        "architecture": get_model_arch(folder, **TRUSTED)[0],
        "turbomind": is_supported(folder, **TRUSTED),
        "backend": autoget_backend(folder, **TRUSTED),
        "task": get_task("pytorch", folder, **TRUSTED)[0],
        "missing": unset_weights(folder),
        "prompt_ids": prompt_ids(folder, question, Image.open(image).convert("RGB")),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
