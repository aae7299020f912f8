"""The documented chain at its smallest: sample, score by a critic, pair by its scores, choose the best of two."""

import json
from pathlib import Path

import pytest

from data.make_visual_reasoning import main as draw
from tools.evaluate import main as evaluate
from tools.reasoning_data_pipeline.mmpr_data_pipeline_correctness import main as sample
from tools.reasoning_data_pipeline.mmpr_data_pipeline_correctness_postprocess import main as pair
from tools.score_steps import main as score

BASE = str(Path(__file__).parents[2] / "ckpt" / "tiny-base")
ASK = "--max-num 1 --max-new-tokens 64 --engine transformers --batch-size 8"


@pytest.mark.integration
def test_from_samples_to_scores_to_pairs_and_to_the_best_of_two(work):
    draw(["--out", "data", "--pairs", "6", "--held_out", "3"])
    asked = f"--checkpoint {BASE} --prompt-path data/train_en_prompts.jsonl --out-dir sampled --num-return-sequences 4"
    assert sample(f"{asked} --dynamic {ASK}".split()) == 0
    assert score(f"--critic {BASE} --data-dir sampled --save-dir scored --max-num 1".split()) == 0
    [path] = Path("scored").rglob("train_en_prompts.jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(rows) == 24 and all(0 < row["score"] < 1 and row["steps_with_score"] for row in rows)
    pair(["--data-dir", "scored", "--save-dir", "pairs", "--by-score", "--num-workers", "1"])
    [pairs] = Path("pairs/raw").glob("*_correctness_rules.jsonl")
    assert all("chosen_score" in json.loads(line) for line in pairs.read_text().splitlines())
    questions = "--reasoned data/held_out_en_prompts.jsonl --samples 2 --temperature 1"
    assert (
        evaluate(f"--checkpoint {BASE} {questions} --critic {BASE} --critic-max-num 1 --out e.json {ASK}".split()) == 0
    )
    found = json.loads(Path("e.json").read_text())["best_of"]["reasoned"]
    assert found["samples"] == 2 and found["unscored"] == 0 and [row["n"] for row in found["over"]] == [1, 2]
