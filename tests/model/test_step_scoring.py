"""A critic's scores turn by turn, its sorted answers, and a saved critic in another's program."""

import json
import shutil

import pytest
import torch
from PIL import Image

from internvl_chat.checkpoint.export import export_checkpoint, remote_code_files
from internvl_chat.critic.scoring import StepCritic
from internvl_chat.model import load_model
from internvl_chat.model.conversation import TextEncoder
from internvl_chat.model.critic_turns import CRITIC_SYSTEM_MESSAGE, MAX_STEPS, split_steps, step_turns
from internvl_chat.model.step_scoring import mark_ids

QUESTION = "How many?"
ANSWER = "red circle, nothing.\n\none: 1.\n\nFinal answer: 1"
ANSWERS = ["four.\n\nFinal answer: 4", ANSWER, "<image> is text here.\n\nFinal answer: 2"]


@pytest.fixture
def model(family):
    return family.load("policy", dtype=torch.float32)


def by_chat_template(model, tokenizer, question, steps, tiles):
    """p(+) of each step by a forward of the whole prompt in text, all logits, one turn more each time."""
    image = "<img>" + "<IMG_CONTEXT>" * 4 * len(tiles) + "</img>"
    turns = step_turns(f"{image}\n{question}", steps)
    scores = []
    for count in range(1, len(steps) + 1):
        said = [turn for text in turns[:count] for turn in (("user", text), ("assistant", "+"))]
        prompt = model.conv_template.prompt([*said[:-1], ("assistant", None)], CRITIC_SYSTEM_MESSAGE)
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        with torch.no_grad():
            logits = model(tiles, ids).logits[0, -1]
        plus, minus = (tokenizer.encode(mark, add_special_tokens=False)[0] for mark in "+-")
        scores.append((logits[plus].exp() / (logits[plus].exp() + logits[minus].exp())).item())
    return scores


def test_scores_of_one_forward_are_those_of_one_turn_after_another(model, family):
    tiles, steps = family.tiles("en-0"), split_steps(ANSWER)
    found = model.generate_steps_with_soft_score(family.tokenizer, QUESTION, ANSWER, tiles)
    assert [step["step"] for step in found] == steps
    scores = [step["score"] for step in found]
    assert scores == pytest.approx(by_chat_template(model, family.tokenizer, QUESTION, steps, tiles), abs=1e-5)
    assert len(set(scores)) == 3 and all(0 < score < 1 for score in scores)


def test_pictures_change_scores_and_text_needs_none(model, family):
    def scores(tiles, question=QUESTION, **how):
        found = model.generate_steps_with_soft_score(family.tokenizer, question, ANSWER, tiles, **how)
        return [step["score"] for step in found]

    one, two = family.tiles("en-0"), family.tiles("en-1", "en-0")
    assert scores(one) == scores(one, f"<image>\n{QUESTION}") != scores(None) != scores(two, num_patches_list=[13, 1])
    with pytest.raises(ValueError, match="2 <image> in the question for 1 images"):
        scores(one, "<image><image>?")


def test_the_best_answer_comes_first_and_its_score_is_the_mean(model, family):
    how = {"tokenizer": family.tokenizer, "question": QUESTION, "pixel_values": family.tiles("en-0")}
    scored = model.select_best_response(response_list=ANSWERS, return_scores=True, **how)
    means = {}
    for answer in ANSWERS:
        steps = model.generate_steps_with_soft_score(response=answer, **how)
        means[answer] = sum(step["score"] for step in steps) / len(steps)
    assert dict(scored) == pytest.approx(means, abs=1e-6)
    assert [answer for answer, _ in scored] == sorted(ANSWERS, key=means.get, reverse=True)
    assert model.select_best_response(response_list=ANSWERS, **how) == [answer for answer, _ in scored]
    assert model.select_best_response(response_list=ANSWERS[:1], **how) == ANSWERS[:1]


def test_versions_steps_and_gathering(model, family):
    how = {"tokenizer": family.tokenizer, "question": QUESTION, "pixel_values": None, "return_scores": True}
    steps = model.generate_steps_with_soft_score(family.tokenizer, QUESTION, ANSWER, None)
    scores = [step["score"] for step in steps]
    [(_, worst)] = model.select_best_response(response_list=[ANSWER], gather_func=min, **how)
    assert worst == min(scores)
    [(_, share)] = model.select_best_response(response_list=[ANSWER], version="hard", **how)
    assert share == sum(score > 0.5 for score in scores) / 3
    [(_, whole)] = model.select_best_response(response_list=[ANSWER], version="orm_soft", **how)
    [one] = model.generate_steps_with_soft_score(family.tokenizer, QUESTION, ANSWER, None, max_steps=1)
    assert whole == one["score"] and one["step"] == ANSWER
    with pytest.raises(ValueError, match="version is 'best'; known: soft, soft_v2, hard, orm_soft"):
        model.select_best_response(response_list=[ANSWER], version="best", **how)


def test_equal_answers_keep_their_order(model, family):
    twins = ["one: 1.", "one: 1."]
    scored = model.select_best_response(family.tokenizer, QUESTION, twins, None, version="hard", return_scores=True)
    assert scored[0][0] is twins[0] and scored[0][1] == scored[1][1]


def test_an_answer_without_text_is_never_the_best(model, family):
    scored = model.select_best_response(
        family.tokenizer, QUESTION, ["", "\n\n ", ANSWER], None, version="orm_soft", return_scores=True
    )
    assert [answer for answer, _ in scored] == [ANSWER, "", "\n\n "]
    assert [score for _, score in scored[1:]] == [float("-inf")] * 2
    assert model.select_best_response(family.tokenizer, QUESTION, ["", ANSWER], None) == [ANSWER, ""]
    assert model.generate_steps_with_soft_score(family.tokenizer, QUESTION, " \n", None) == []


def test_chat_of_a_critic_is_under_its_own_system_message(model, family):
    settings = {"max_new_tokens": 1, "do_sample": False, "suppress_tokens": None}
    tokenizer = family.tokenizer
    [turn] = step_turns(QUESTION, [ANSWER])
    model.config.critic = {"system_message": CRITIC_SYSTEM_MESSAGE}
    critic = type(model)(model.config)
    critic.load_state_dict(model.state_dict())
    critic.eval()
    assert model.system_message is None and critic.system_message == CRITIC_SYSTEM_MESSAGE
    marks = mark_ids(TextEncoder(tokenizer), critic.conv_template)
    score = critic.generate_steps_with_soft_score(tokenizer, QUESTION, ANSWER, None, orm=True)[0]["score"]
    others = [index for index in range(critic.config.llm_config.vocab_size) if index not in marks]
    answer = critic.chat(tokenizer, None, turn, {**settings, "suppress_tokens": others})
    assert answer == ("+" if score > 0.5 else "-")


def saved_critic(family, folder):
    """A critic as a training saves it, from a source that brought other remote code."""
    source = shutil.copytree(family.folder, folder / "source")
    for name in ("modeling_internvl_chat.py", "conversation.py"):
        (source / name).write_text("raise ImportError('the remote code of the source')\n")
    config = json.loads((source / "config.json").read_text())
    config["auto_map"] = {"AutoModel": "modeling_internvl_chat.SomeOtherModel"}
    (source / "config.json").write_text(json.dumps(config))
    model = family.load("policy", dtype=torch.float32)
    model.config.critic = {"system_message": CRITIC_SYSTEM_MESSAGE}
    export_checkpoint(model, source, folder / "saved")
    return model, folder / "saved"


def test_a_saved_critic_brings_the_code_that_scores(family, tmp_path):
    _, folder = saved_critic(family, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    assert config["critic"] == {"system_message": CRITIC_SYSTEM_MESSAGE}
    assert config["auto_map"]["AutoModel"] == "modeling_internvl_chat.InternVLChatModel"
    assert all((folder / path.name).read_text() == path.read_text() for path in remote_code_files())


@pytest.mark.parametrize("layout", ["turns", "answer"])
def test_the_numbers_are_those_of_the_packed_scorer(family, tmp_path, layout):
    folder = shutil.copytree(family.policy_folder, tmp_path / "critic")
    config = json.loads((folder / "config.json").read_text())
    said = {"system_message": "Judge.", "layout": layout}
    (folder / "config.json").write_text(json.dumps({**config, "critic": said}))
    picture = Image.linear_gradient("L").resize((112, 56)).convert("RGB")  # two tiles and a thumbnail
    critic = StepCritic.load(str(folder), dtype=torch.float32, device="cpu")
    [grid] = critic.tiling.plan([picture.size])
    tiles = torch.from_numpy(critic.tiling.cut(picture, grid))
    assert len(tiles) == 3
    packed = critic.score(QUESTION, [picture], [split_steps(answer, MAX_STEPS) for answer in ANSWERS])
    scored = dict(zip(ANSWERS, (sum(scores) / len(scores) for scores in packed), strict=True))
    model = load_model(folder, dtype=torch.float32).eval()
    found = model.select_best_response(family.tokenizer, QUESTION, ANSWERS, tiles, return_scores=True)
    assert dict(found) == pytest.approx(scored, abs=1e-5)
    steps = model.generate_steps_with_soft_score(family.tokenizer, QUESTION, ANSWER, tiles)
    assert [step["score"] for step in steps] == pytest.approx(packed[ANSWERS.index(ANSWER)], abs=1e-5)
