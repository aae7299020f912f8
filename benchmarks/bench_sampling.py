"""Answers per second of the embedded engine beside one `generate` call per answer, and: is it the same distribution?

    python benchmarks/bench_sampling.py [--rounds 3] [--prompts 2] [--samples 16] [--draws 4000]
    python benchmarks/bench_sampling.py --against 824527c    # the engines of a commit and of this tree, by turns

`per_answer` is the published loop: for every answer the model sees image and prompt again and decodes alone.
`num_return_sequences` asks `generate` for all answers of a prompt at once, which computes the image once but the prompt
once per answer. `engine` is ours. All three sample with top-k 50 at temperature 1 from the same random model of 29 M
parameters, one thread, images of 4 tiles and a thumbnail.

The distribution is compared on the tiny golden checkpoint: `draws` answers by `generate` and by the engine to a prompt
with and one without image, by chi-square tests of the token at each of the first positions, of the first two tokens
together, and of the length. With Bonferroni's correction, the smallest p must not be below 0.01.

`number_formats` are tokens per second of the engine with a wider model in float32 and in bfloat16, as a checkpoint of
either format is sampled from.
Writes benchmarks/results/sampling.json, with --against sampling_against.json.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from machine import interleaved_medians, output_in, tree_of, write_results
from PIL import Image

from internvl_chat.model import load_model, load_tokenizer
from tools.checkpoints.tiny import make_tiny_checkpoint
from tools.make_tiny_checkpoint import parse_arguments
from tools.reasoning_data_pipeline.engines.inputs import PromptEncoder
from tools.reasoning_data_pipeline.engines.protocol import EngineOptions, Request, SamplingSettings
from tools.reasoning_data_pipeline.engines.transformers_engine import TransformersEngine

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "golden"
MODEL = (
    "--hidden_size 512 --intermediate_size 1408 --num_hidden_layers 8 --num_attention_heads 8 --image_size 224 "
    "--vit_hidden_size 256 --vit_intermediate_size 1024 --vit_num_hidden_layers 6 --vit_num_attention_heads 8"
)
WIDE = (  # products large enough that the weights, and not the calls, take the time
    "--hidden_size 2048 --intermediate_size 5632 --num_hidden_layers 4 --num_attention_heads 16 --image_size 224 "
    "--vit_hidden_size 256 --vit_intermediate_size 1024 --vit_num_hidden_layers 2 --vit_num_attention_heads 8"
)
POSITIONS = 4  # tokens whose distribution is compared
FORMATS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
ENGINE_ALONE = """
import sys, time
from pathlib import Path
sys.path.insert(0, "benchmarks")
import bench_sampling as bench
bench.torch.set_num_threads(1)
folder, prompts, samples = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
sampler = bench.Sampler(folder / "model", max_new_tokens=64, max_rows=2 * samples)
seeds, image = dict(enumerate(range(samples))), (str(folder / "image.png"),)
requests = [bench.Request(f"{n}", f"<image>\\nQuestion {n}?", seeds, image, max_tiles=4) for n in range(prompts)]
sampler.by_engine(requests)
start = time.perf_counter()
tokens = sum(map(len, sampler.by_engine(requests)))
print(tokens / (time.perf_counter() - start))
"""  # on what the benchmark of any commit has
EXPECTED_COUNT = 8  # rarer outcomes are put together


class Sampler:
    """A model that answers requests in three ways; `token_ids` of the answers come back as tuples."""

    def __init__(self, checkpoint: Path, max_new_tokens: int, max_rows: int) -> None:
        self.model, self.tokenizer = load_model(checkpoint), load_tokenizer(checkpoint)
        settings = SamplingSettings(top_k=50, max_new_tokens=max_new_tokens)
        options = EngineOptions(sampling=settings, max_rows=max_rows, num_workers=1)
        self.encoder = PromptEncoder(self.tokenizer, self.model.config)
        self.engine = TransformersEngine(self.model, self.encoder, options)

    def by_engine(self, requests: Sequence[Request]) -> list[tuple[int, ...]]:
        """Our engine."""
        return [self._cut(answer.tokens) for answer in self.engine.generate(requests)]

    def by_generate(self, request: Request, count: int = 1) -> list[tuple[int, ...]]:
        """One `generate` call for `count` answers, from the image on."""
        prompt = self.engine.reader.read(request)
        ids = torch.tensor([prompt.ids])
        output = self.model.generate(
            pixel_values=self.engine.reader.cut(prompt),
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=True,
            temperature=1.0,
            top_k=50,
            top_p=1.0,
            max_new_tokens=self.engine.options.sampling.max_new_tokens,
            num_return_sequences=count,
            eos_token_id=sorted(self.engine.stop_ids),
            pad_token_id=self.tokenizer.pad_token_id,
        )
        return [self._cut(answer) for answer in output.tolist()]

    def _cut(self, tokens: Sequence[int]) -> tuple[int, ...]:
        """The tokens before the one that ends the answer."""
        ends = [place for place, token in enumerate(tokens) if token in self.engine.stop_ids]
        return tuple(tokens[: ends[0]] if ends else tokens)


def chi_square_p(first: Sequence[Hashable], second: Sequence[Hashable]) -> float:
    """p of the hypothesis that two samples have one distribution; outcomes too rare for the test are put together."""
    counts = [Counter(first), Counter(second)]
    rare_below = EXPECTED_COUNT * (len(first) + len(second)) / min(len(first), len(second))
    common = [outcome for outcome in {*first, *second} if counts[0][outcome] + counts[1][outcome] >= rare_below]
    table = np.array([[count[outcome] for outcome in common] for count in counts], dtype=float).reshape(2, -1)
    rest = np.array([[len(first)], [len(second)]]) - table.sum(1, keepdims=True)
    if rest.sum() >= rare_below:
        table = np.hstack([table, rest])
    expected = table.sum(1, keepdims=True) * table.sum(0, keepdims=True) / table.sum()
    statistic = float(((table - expected) ** 2 / expected).sum())
    return float(torch.special.gammaincc(torch.tensor((table.shape[1] - 1) / 2), torch.tensor(statistic / 2)))


def compare_distributions(first: Sequence[tuple[int, ...]], second: Sequence[tuple[int, ...]]) -> dict[str, float]:
    """p by what is compared: the token at each position, the first two together, the length."""
    views: dict[str, Callable[[tuple[int, ...]], Hashable]] = {
        f"token_{place}": lambda answer, place=place: answer[place : place + 1] for place in range(POSITIONS)
    }
    views |= {"tokens_0_1": lambda answer: answer[:2], "length": len}
    return {name: chi_square_p([*map(view, first)], [*map(view, second)]) for name, view in views.items()}


def measure_distributions(draws: int) -> dict[str, Any]:
    """Both ways of sampling on the golden checkpoint, with p by prompt and view."""
    torch.manual_seed(0)
    sampler = Sampler(GOLDEN / "ckpt" / "tiny-qwen2", max_new_tokens=12, max_rows=200)
    image = str(GOLDEN / "data" / "images" / "tall_3to4.png")
    requests = [Request("image", "<image>\nWhat is it?", {}, (image,)), Request("text", "How many?", {})]
    found = {}
    for request in requests:
        theirs = [answer for _ in range(draws // 200) for answer in sampler.by_generate(request, 200)]
        seeds = {sample: sample for sample in range(len(theirs))}
        found[request.key] = compare_distributions(theirs, sampler.by_engine([replace(request, seeds=seeds)]))
    smallest = min(p for views in found.values() for p in views.values())
    tests = sum(map(len, found.values()))
    return {
        "draws": draws,
        "p": {key: {name: round(p, 4) for name, p in views.items()} for key, views in found.items()},
        "smallest_p_corrected": round(min(1.0, smallest * tests), 4),
        "same_distribution": smallest * tests >= 0.01,
    }


def make_inputs(folder: Path) -> None:
    """A model and an image to ask about."""
    make_tiny_checkpoint(parse_arguments([*MODEL.split(), "--out", str(folder / "model")]))
    pixels = np.random.default_rng(0).integers(0, 255, (400, 400, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "image.png")


def measure_against(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Tokens per second of the engine of a commit and of this tree, each run in its own process."""
    make_inputs(folder)
    words = ("-c", ENGINE_ALONE, str(folder), str(args.prompts), str(args.samples))
    with tree_of(args.against) as before:
        turns = [[float(output_in(tree, *words)) for tree in (before, ROOT)] for _ in range(args.rounds)]
    then, now = zip(*turns, strict=True)
    return {
        "against": args.against,
        "rounds": args.rounds,
        "samples_per_prompt": args.samples,
        "tokens_per_second_before": round(median(then), 1),
        "tokens_per_second": round(median(now), 1),
        "speed": round(median(new / old for old, new in turns), 3),
    }


def measure_speed(folder: Path, prompts: int, samples: int, rounds: int) -> dict[str, Any]:
    """Answers per second of the three ways, taken in turns."""
    make_inputs(folder)
    sampler = Sampler(folder / "model", max_new_tokens=64, max_rows=2 * samples)
    seeds = {sample: sample for sample in range(samples)}
    image = (str(folder / "image.png"),)
    requests = [Request(f"{n}", f"<image>\nQuestion {n}?", seeds, image, max_tiles=4) for n in range(prompts)]
    lengths = [len(answer) for answer in sampler.by_engine(requests)]
    seconds = interleaved_medians(
        {
            "per_answer": lambda: [sampler.by_generate(request) for request in requests for _ in seeds],
            "num_return_sequences": lambda: [sampler.by_generate(request, samples) for request in requests],
            "engine": lambda: sampler.by_engine(requests),
        },
        rounds,
    )
    answers = prompts * samples
    return {
        "prompts": prompts,
        "samples_per_prompt": samples,
        "max_new_tokens": 64,
        "mean_tokens": round(float(np.mean(lengths)), 1),
        "tokens_per_second": round(prompts * samples * float(np.mean(lengths)) / seconds["engine"], 1),
        "answers_per_second": {name: round(answers / value, 2) for name, value in seconds.items()},
        "speedup_over_per_answer": round(seconds["per_answer"] / seconds["engine"], 2),
        "speedup_over_num_return_sequences": round(seconds["num_return_sequences"] / seconds["engine"], 2),
    }


def measure_formats(folder: Path, samples: int, rounds: int) -> dict[str, Any]:
    """Tokens per second of the engine by number format, taken in turns."""
    make_tiny_checkpoint(parse_arguments([*WIDE.split(), "--out", str(folder / "wide")]))
    samplers = {name: Sampler(folder / "wide", max_new_tokens=24, max_rows=samples) for name in FORMATS}
    for name, dtype in FORMATS.items():
        samplers[name].model.to(dtype)
    request = Request("0", "How many?" * 40, {sample: sample for sample in range(samples)})
    lengths = {name: sum(map(len, sampler.by_engine([request]))) for name, sampler in samplers.items()}
    runs = {name: partial(sampler.by_engine, [request]) for name, sampler in samplers.items()}
    seconds = interleaved_medians(runs, rounds)
    rates = {name: lengths[name] / seconds[name] for name in FORMATS}
    return {
        "tokens_per_second": {name: round(rate, 1) for name, rate in rates.items()},
        "bfloat16_over_float32": round(rates["bfloat16"] / rates["float32"], 2),
    }


def main() -> None:
    """Measure, write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=2)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--draws", type=int, default=4000)
    parser.add_argument("--against", metavar="COMMIT", help="compare the engine alone with that of a commit")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.against:
        with tempfile.TemporaryDirectory() as folder:
            write_results("sampling_against", measure_against(Path(folder), args))
        return
    distributions = measure_distributions(args.draws)
    with tempfile.TemporaryDirectory() as folder:
        speed = measure_speed(Path(folder), args.prompts, args.samples, args.rounds)
        formats = measure_formats(Path(folder), args.samples, args.rounds)
    write_results("sampling", {"speed": speed, "number_formats": formats, "distribution": distributions})


if __name__ == "__main__":
    main()
