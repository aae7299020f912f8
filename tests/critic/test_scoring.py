"""Scores by packed branches against a plain forward for every turn of every candidate, as the released code takes."""

import pytest
import torch

from internvl_chat.critic.scoring import StepCritic, layout_of, system_message_of
from internvl_chat.data.images import Tiling
from internvl_chat.model.constants import IMG_CONTEXT_TOKEN, IMG_END_TOKEN, IMG_START_TOKEN
from internvl_chat.model.conversation import get_template
from internvl_chat.model.critic_turns import CRITIC_SYSTEM_MESSAGE
from tests.critic.conftest import picture

QUESTION = "How many red circles are there?"
CANDIDATES = [
    ["There are 2 circles.\nOne is red.", "So the answer is 1.", "Answer: 1"],
    ["There are 2 circles.\nOne is red.", "Answer: 2"],
    ["Nothing is red."],
    ["There are 2 circles.\nOne is red.", "So the answer is 1.", "Answer: 1"],
]
IMAGES = {"no image": [], "one": [(120, 56)], "two": [(60, 60), (60, 130)]}


def turn_by_turn(model, tokenizer, question, images, steps, system=CRITIC_SYSTEM_MESSAGE):
    """p(+) of each step by a stock forward of the conversation up to it, rendered as text and tokenized whole."""
    template = get_template(model.config.template)
    tiling = Tiling(image_size=56, max_num=6)
    grids = tiling.plan([image.size for image in images]) if images else []
    cut = [torch.from_numpy(tiling.cut(image, grid)) for image, grid in zip(images, grids, strict=True)]
    turns, scores = [], []
    words = [tokenizer.encode(f"{template.assistant_prefix}{word}")[-1] for word in ("+", "-")]
    for number, step in enumerate(steps):
        head = f"### Question:\n{'<image>' + chr(10) if images else ''}" if number == 0 else ""
        head = head.replace("<image>\n", "<image>\n" * len(images))
        text = f"{head}{question}\n\n### Solution Process:\n{step}" if number == 0 else step
        prompt = template.prompt([*turns, ("user", text), ("assistant", None)], system)
        for tiles in cut:
            tokens = IMG_CONTEXT_TOKEN * (model.num_image_token * len(tiles))
            prompt = prompt.replace("<image>", IMG_START_TOKEN + tokens + IMG_END_TOKEN, 1)
        ids = torch.tensor([tokenizer.encode(prompt, add_special_tokens=True)])
        with torch.no_grad():
            logits = model(torch.cat(cut) if cut else None, ids).logits[0, -1, words]
        scores.append(logits.double().softmax(-1)[0].item())
        turns += [("user", text), ("assistant", "+")]
    return scores


def step_by_step(model, tokenizer, question, images, steps):
    """p(+) of each step by a stock forward of question and answer up to its end, as text and tokenized whole."""
    template = get_template(model.config.template)
    tiling = Tiling(image_size=56, max_num=6)
    cut = [torch.from_numpy(tiling.cut(image, tiling.plan([image.size])[0])) for image in images]
    pictures = [f"<img>{IMG_CONTEXT_TOKEN * model.num_image_token * len(tiles)}</img>\n" for tiles in cut]
    prompt = template.prompt([("user", "".join(pictures) + question), ("assistant", None)])
    ids = tokenizer.encode(prompt, add_special_tokens=True)
    words = [tokenizer.encode(f"{template.assistant_prefix}{word}")[-1] for word in ("+", "-")]
    scores = []
    for number, step in enumerate(steps):
        ids = ids + tokenizer.encode(step if number == 0 else f"\n\n{step}", add_special_tokens=False)
        with torch.no_grad():
            logits = model(torch.cat(cut) if cut else None, torch.tensor([ids])).logits[0, -1, words]
        scores.append(logits.double().softmax(-1)[0].item())
    return scores


@pytest.mark.parametrize(("layout", "one_by_one"), [("critic", turn_by_turn), ("critic_of_answers", step_by_step)])
@pytest.mark.parametrize("images", IMAGES.values(), ids=IMAGES)
def test_scores_are_those_of_a_forward_for_every_step(request, stock, images, layout, one_by_one):
    pictures = [picture(*size, seed=number) for number, size in enumerate(images)]
    ours = request.getfixturevalue(layout).score(QUESTION, pictures, CANDIDATES)
    theirs = [one_by_one(*stock, QUESTION, pictures, steps) for steps in CANDIDATES]
    assert [len(scores) for scores in ours] == [3, 2, 1, 3]
    assert torch.allclose(torch.tensor(sum(ours, [])), torch.tensor(sum(theirs, [])), rtol=0, atol=1e-5)
    assert len({round(score, 4) for score in sum(ours, [])}) > 4  # they tell steps apart


def test_a_step_of_an_answer_is_judged_alike_whatever_follows_it(critic_of_answers):
    one, other, *_ = critic_of_answers.score(QUESTION, [], CANDIDATES)
    assert one[0] == other[0]


def test_what_cannot_be_scored_is_refused(critic):
    assert critic.score(QUESTION, [], []) == []
    with pytest.raises(ValueError, match="candidate 1 has no step"):
        critic.score(QUESTION, [], [["One."], []])
    with pytest.raises(ValueError, match="step 1 of candidate 1 has no text"):
        critic.score(QUESTION, [], [["One."], ["One.", "\n "]])
    with pytest.raises(ValueError, match="2 <image> in the question for 1 images"):
        critic.score("<image> and <image>?", [picture(60, 60)], [["One."]])


def test_a_step_may_speak_of_an_image(critic):
    """Only what the question says is a placeholder; in a step it is text."""
    pictures = [picture(60, 60)]
    (asked,) = critic.score(QUESTION, pictures, [["In <image> there are two.", "<image>"]])
    (placed,) = critic.score(f"<image>\n{QUESTION}", pictures, [["In <image> there are two.", "<image>"]])
    assert asked == pytest.approx(placed) and len(asked) == 2


def test_a_checkpoint_of_another_family_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}')
    with pytest.raises(ValueError, match="qwen2"):
        StepCritic.load(tmp_path)


def test_a_critic_scores_on_under_the_message_it_was_trained_with(stock):
    config = stock[0].config
    assert system_message_of(config) == CRITIC_SYSTEM_MESSAGE  # a chat model is told what to do
    config.architectures = ["InternVLRewardModel"]
    assert system_message_of(config) is None  # the released critic judges under its template's own
    assert layout_of(config) == "turns"
    config.critic = {"system_message": "Judge."}
    assert system_message_of(config) == "Judge." and layout_of(config) == "turns"
    config.critic["layout"] = "answer"
    assert layout_of(config) == "answer"
    config.critic["layout"] = "pages"
    with pytest.raises(ValueError, match="judges steps in the layout 'pages'; known: turns, answer"):
        layout_of(config)
