"""Run by vLLM's own interpreter: give it a checkpoint, as far as it goes without a GPU; prints one line of JSON.

python load_in_vllm.py CHECKPOINT QUESTION IMAGE BATCH.pt

The batch has `tiles` and the `features` of images that they give.
"""

import json
import os
import sys

os.environ["VLLM_TARGET_DEVICE"] = "cpu"  # where the wheel for GPUs is installed it then plans for a CPU

import torch
import vllm
from PIL import Image
from safetensors.torch import load_file
from vllm.config import set_current_vllm_config
from vllm.distributed import init_distributed_environment, initialize_model_parallel
from vllm.engine.arg_utils import EngineArgs
from vllm.model_executor.model_loader.utils import initialize_model, process_weights_after_loading
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.multimodal.processing import ProcessorInputs, TimingContext


def load(config, folder):
    """vLLM's model with the checkpoint's weights: the model, names not asked for, and names left without a value."""
    init_distributed_environment(1, 0, f"file://{folder}/meet-{os.getpid()}", 0, backend="gloo")
    initialize_model_parallel(1, 1)
    model = initialize_model(vllm_config=config).eval()
    stored, taken = load_file(f"{folder}/model.safetensors"), []
    found = model.load_weights((taken.append(name) or (name, weight)) for name, weight in stored.items())
    missing = sorted({name for name, _ in model.named_parameters()} - set(found))
    process_weights_after_loading(model, config.model_config, torch.device("cpu"))
    return model, sorted(set(stored) - set(taken)), missing


def prompt_ids(config, question, image):
    """Ids of a question about an image: by the chat template, and vLLM's processor puts in those of tiles."""
    processor = MULTIMODAL_REGISTRY.create_processor(config.model_config)
    tokenizer, items = processor.info.get_tokenizer(), processor.info.parse_mm_data({"image": image})
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    inputs = ProcessorInputs(tokenizer.encode(prompt), items)
    return processor.apply(inputs, TimingContext(enabled=False))["prompt_token_ids"]


def main(folder, question, image, batch_path):
    """Say what vLLM makes of the checkpoint."""
    torch.set_num_threads(1)
    options = {"dtype": "float32", "max_model_len": 512, "enforce_eager": True, "skip_mm_profiling": True}
    config = EngineArgs(model=folder, trust_remote_code=True, **options).create_engine_config()
    batch = torch.load(batch_path, weights_only=True)
    with set_current_vllm_config(config), torch.no_grad():
        model, unused, missing = load(config, folder)
        features = model.extract_feature(batch["tiles"])
    result = {
        "version": vllm.__version__,
        "architecture": config.model_config.architectures[0],
        "model": type(model).__name__,
        "unused": unused,
        "missing": missing,
        "difference": (features - batch["features"]).abs().max().item(),
        "prompt_ids": prompt_ids(config, question, Image.open(image).convert("RGB")),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
