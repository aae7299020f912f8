"""Run by vLLM's own interpreter, from the root of the repository: answers of the in-process engine, as lines of JSON.

python tests/clients/answer_in_vllm.py CHECKPOINT REQUESTS.json OUT.jsonl

REQUESTS.json has a list of {"temperature", "requests": [fields of `Request`]}.
"""

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

from tools.reasoning_data_pipeline.engines.opening import open_engine
from tools.reasoning_data_pipeline.engines.protocol import EngineOptions, Request, SamplingSettings


def request(fields):
    """A request from its JSON, in which keys are strings and tuples are lists."""
    seeds = {int(sample): seed for sample, seed in fields["seeds"].items()}
    return Request(**{**fields, "seeds": seeds, "images": tuple(fields["images"])})


def main(checkpoint, wanted, out):
    """Answer all of them with one engine."""
    options = EngineOptions(checkpoint, SamplingSettings(max_new_tokens=96), session_len=1024, logprobs=True)
    engine = open_engine("vllm", options)
    with open(out, "w", encoding="utf-8") as lines:
        for part in json.loads(Path(wanted).read_text(encoding="utf-8")):
            sampling = SamplingSettings(part["temperature"], max_new_tokens=96)
            engine.options = replace(options, sampling=sampling)
            for result in engine.generate(map(request, part["requests"])):
                lines.write(json.dumps({"temperature": part["temperature"], **asdict(result)}) + "\n")
    engine.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
