"""Run by an interpreter with VLMEvalKit's requirements: its InternVL wrapper asks a checkpoint.

python load_in_vlmevalkit.py VLMEVALKIT CHECKPOINT IMAGE

Prints one line of JSON: the words of its prompt and the answer, under both settings that the MPO models need.
"""

import json
import os
import sys

os.environ["USE_COT"] = "1"
sys.path.insert(0, sys.argv[1])  # a clone; its package pins nothing and is not on PyPI in this form

import torch
from vlmeval.vlm.internvl.internvl_chat import InternVLChat

QUESTION = "How many circles are there?"


def main(folder, image):
    """Ask one question of MathVista's kind."""
    torch.set_num_threads(1)
    wrapper = InternVLChat(model_path=folder, version="V2.0", use_mpo_prompt=True, max_new_tokens=12)
    wrapper.device = "cpu"  # the wrapper says "cuda" whatever there is; weights lie where device_map put them
    wrapper.set_dump_image(lambda line: [image])
    row = {"index": 0, "question": QUESTION, "answer": "3"}
    message = wrapper.build_prompt(row, dataset="MathVista_MINI")
    answer = wrapper.generate(message, dataset="MathVista_MINI")
    print(json.dumps({"prompt": message[0]["value"], "answer": answer}))


if __name__ == "__main__":
    main(*sys.argv[2:])
