"""Run without this package: transformers computes the logits of a batch by checkpoints of both layouts.

python load_in_transformers.py BATCH.pt LOGITS.pt CHECKPOINT...

The published layout brings its own code, `-hf` is transformers' own class. Logits come in the order of the checkpoints.
"""

import sys

sys.modules["internvl_chat"] = None  # an import of the package, which may be installed, now fails

import torch  # noqa: E402
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoTokenizer  # noqa: E402


def logits(folder, tiles, ids):
    """Of one row with its tiles."""
    if AutoConfig.from_pretrained(folder, trust_remote_code=True).model_type == "internvl":
        model = AutoModelForImageTextToText.from_pretrained(folder, dtype="auto").eval()
        assert type(model).__module__.startswith("transformers.models.internvl")
        return model(input_ids=ids, pixel_values=tiles).logits
    model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True, use_fast=False)
    model.img_context_token_id = tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>")
    return model(tiles, ids).logits


def main(batch_path, out, *folders):
    """Compute and write."""
    torch.set_num_threads(1)
    batch = torch.load(batch_path, weights_only=True)
    with torch.no_grad():
        torch.save([logits(folder, batch["tiles"], batch["ids"]) for folder in folders], out)


if __name__ == "__main__":
    main(*sys.argv[1:])
