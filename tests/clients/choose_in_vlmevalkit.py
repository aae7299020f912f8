"""Run by an interpreter with VLMEvalKit's requirements: its InternVL wrapper lets a critic choose the best of three.

python choose_in_vlmevalkit.py VLMEVALKIT CHECKPOINT IMAGE CRITIC

Prints one line of JSON: what the critic was asked, what it returned, and the wrapper's answer.
"""

import json
import sys

sys.path.insert(0, sys.argv[1])  # a clone; its package pins nothing and is not on PyPI in this form

import torch
from vlmeval.vlm.internvl.internvl_chat import InternVLChat


def main(folder, image, critic):
    """Ask one question of MathVista's kind."""
    torch.set_num_threads(1)
    wrapper = InternVLChat(model_path=folder, version="V2.0", best_of_n=3, reward_model_path=critic, max_new_tokens=12)
    wrapper.device = "cpu"  # the wrapper says "cuda" whatever there is; weights lie where device_map put them
    wrapper.set_dump_image(lambda line: [image])
    select, found = wrapper.reward_model.select_best_response, {}

    def recorded(question, response_list, **asked):
        found.update(question=question, asked=list(response_list), keywords=sorted(asked))
        found["best_first"] = select(question=question, response_list=response_list, **asked)
        return found["best_first"]

    wrapper.reward_model.select_best_response = recorded
    message = wrapper.build_prompt({"index": 0, "question": "How many circles are there?"}, dataset="MathVista_MINI")
    found["answer"] = wrapper.generate(message, dataset="MathVista_MINI")
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[2:])
