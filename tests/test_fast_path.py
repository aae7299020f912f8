"""The packed path against the plain one: every answer a row of its own, stock sdpa, full logits."""

import json
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch

from internvl_chat.data.collator import dpo_concat_pad_data_collator
from internvl_chat.losses.mixture import mixed_preference_loss, nll_loss
from internvl_chat.losses.pair import PreferenceLogps
from internvl_chat.model import load_config, load_model
from internvl_chat.model.constants import IGNORE_INDEX
from internvl_chat.packed.attention import use_shared_prefix
from internvl_chat.packed.logps import answer_logps
from internvl_chat.packed.packing import pack_batch
from tests.tools.test_convert import build

FAMILIES = ("tiny-qwen2", "tiny-internlm2")
SIDES = ("chosen", "rejected")
PARTS = ("input_ids", "labels")
ROWS = ("en-4", "zh-3", "en-3")  # pictures of several tiles, several pictures, text only


class Rows:
    """Samples of a golden family, made into batches."""

    def __init__(self, golden_folder, family):
        out, family = golden_folder / "out", "tiny-qwen2" if family == "gpt_oss" else family
        samples = json.loads((out / f"samples_{family}.json").read_text(encoding="utf-8"))
        self.samples = samples["templates"]["internvl2_5"]["samples"]
        self.ids = np.load(out / f"samples_{family}.npz")
        self.pixels = np.load(out / "pixels_u8.npz")

    def feature(self, name):
        feature = {
            "pixel_values": torch.from_numpy(self.pixels[name]),
            "image_flags": torch.tensor(self.samples[name]["image_flags"]),
            "row_id": name,
        }
        for side in SIDES:
            length = self.samples[name][side]["real_len"]
            for part in PARTS:
                values = self.ids[f"internvl2_5|{name}|{side}_{part}"][:length]
                feature[f"{side}_{part}"] = torch.from_numpy(values).long()
        return feature

    def batch(self, grouped):
        """Three prompts; grouped, the first has two pairs more that share answers with its own."""
        features = [self.feature(name) for name in ROWS]
        if grouped:
            first = features[0]
            swapped = {f"{a}_{part}": first[f"{b}_{part}"] for a, b in (SIDES, SIDES[::-1]) for part in PARTS}
            features += [first | swapped, first | shortened(first)]
        return dpo_concat_pad_data_collator(features)

    def batch_of_images(self):
        """Questions about the images of three rows, some with a beginning in common, two of them with two pairs.

        The last one has another picture in the last place, so it shares those before.
        """
        one, several, text = (self.feature(name) for name in ROWS)
        asked = [ask(one, [31, 32]), ask(one, [41, 42, 43, 44]), ask(one, [41, 42, 45]), ask(several, [41])]
        asked += [asked[1] | shortened(asked[1]), ask(text, [51])]
        pixels = several["pixel_values"].clone()
        pixels[-1] = 255 - pixels[-1]
        return dpo_concat_pad_data_collator([one, several, text, *asked, several | {"pixel_values": pixels}])


def ask(feature, question):
    """The row with these tokens more in front of the last three of its prompt."""
    changed = {}
    for side in SIDES:
        at = (feature[f"{side}_labels"] != IGNORE_INDEX).nonzero()[0].item() - 3
        for part in PARTS:
            ids = feature[f"{side}_{part}"]
            more = torch.tensor(question) if part == "input_ids" else torch.full((len(question),), IGNORE_INDEX)
            changed[f"{side}_{part}"] = torch.cat([ids[:at], more, ids[at:]])
    return feature | changed


def shortened(feature):
    """The rejected side without its end token and newline: a third answer to the same prompt."""
    return {f"rejected_{part}": feature[f"rejected_{part}"][:-2] for part in PARTS}


@pytest.fixture
def load(golden_folder, tmp_path):
    """Function from a family to its policy and reference."""

    def loaded(family):
        folder = golden_folder / "ckpt"
        if family == "gpt_oss":  # its sinks and windows, narrower than the prompts, by transformers' eager attention
            reference = load_model(build(tmp_path / "gpt_oss", folder / "tiny-qwen2", family))
            return moved(deepcopy(reference).train()), reference
        config = load_config(folder / f"{family}-policy")
        config.vision_config.drop_path_rate = 0.0
        reference = load_model(folder / family, attn_implementation="sdpa").eval()
        return load_model(folder / f"{family}-policy", config=config, attn_implementation="sdpa").train(), reference

    return loaded


@torch.no_grad()
def moved(model):
    """The model a little away from where it was."""
    torch.manual_seed(1)
    for parameter in model.parameters():
        parameter += 0.01 * torch.randn_like(parameter)
    return model


def plain_logps(model, batch):
    """Log-probs of all pairs, an answer at a time: its own vision tower run, its own prompt, all its logits."""
    sides = {}
    for side in SIDES:
        tiles, flags = (batch[name].split(batch["num_tiles"].tolist()) for name in ("pixel_values", "image_flags"))
        logps = []
        for row, labels in enumerate(batch[f"{side}_labels"]):
            ids = batch[f"{side}_input_ids"][row][batch[f"{side}_attention_mask"][row].bool()]
            labels = labels[1 : len(ids)]
            logits = model(tiles[row], ids[None], image_flags=flags[row]).logits[0, :-1].float()
            scored = labels != IGNORE_INDEX
            logps.append(logits[scored].log_softmax(-1).gather(-1, labels[scored, None]).double().sum())
        sides[side] = torch.stack(logps)
    lengths = {side: (batch[f"{side}_labels"] != IGNORE_INDEX).sum(-1) for side in SIDES}
    return PreferenceLogps(sides["chosen"], sides["rejected"], lengths["chosen"], lengths["rejected"])


def fast_logps(model, batch):
    packed = pack_batch(batch, model.img_context_token_id)
    pack = packed["packed"]
    return PreferenceLogps.of_answers(pack.pair_answers, pack.lengths, answer_logps(model, packed))


def run(logps_of, policy, reference, batch):
    """Log-probs of the policy, the loss and all gradients."""
    policy.zero_grad()
    policy_logps = logps_of(policy, batch)
    with torch.no_grad():
        frozen = logps_of(reference, batch)
    pairs = replace(policy_logps, reference_chosen=frozen.policy_chosen, reference_rejected=frozen.policy_rejected)
    loss = mixed_preference_loss(pairs, nll_loss(pairs.policy_chosen, pairs.chosen_lengths)).total
    loss.backward()
    logps = torch.cat([policy_logps.policy_chosen, policy_logps.policy_rejected]).detach()
    return logps, loss.item(), {name: keyless(name, p.grad.clone()) for name, p in policy.named_parameters()}


def keyless(name, tensor):
    """Without the key third of a ViT qkv.bias, whose true gradient is zero."""
    if not name.endswith("attn.qkv.bias"):
        return tensor
    query, _, value = tensor.chunk(3)
    return torch.cat([query, value])


def switch_to_packed(policy, reference, checkpointing=False):
    for model in (policy, reference):
        use_shared_prefix(model)
    if checkpointing:
        policy.gradient_checkpointing_enable({"use_reentrant": False})


BATCHES = {
    "apart": lambda rows: rows.batch(grouped=False),
    "grouped": lambda rows: rows.batch(grouped=True),
    "images": lambda rows: rows.batch_of_images(),
}


@pytest.mark.parametrize("family", [*FAMILIES, "gpt_oss"])
@pytest.mark.parametrize("made", BATCHES)
@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "checkpointed"])
def test_fast_and_plain_path_agree_to_1e5_of_each_gradient(load, golden_folder, family, made, checkpointing):
    policy, reference = load(family)
    batch = BATCHES[made](Rows(golden_folder, family))
    logps, loss, grads = run(plain_logps, policy, reference, batch)
    switch_to_packed(policy, reference, checkpointing)
    fast, fast_loss, fast_grads = run(fast_logps, policy, reference, batch)
    torch.testing.assert_close(fast, logps, rtol=1e-6, atol=1e-5)
    assert fast_loss == pytest.approx(loss, abs=2e-6)
    rounding = 1e-8 * torch.stack([grad.norm() for grad in grads.values()]).norm().item()  # of the whole gradient
    for name, grad in grads.items():
        error = (fast_grads[name] - grad).norm().item()
        bound = max(1e-5 * grad.norm().item(), rounding)
        assert error <= bound, f"{name}: {error / grad.norm().item():.1e} of its norm"


def test_a_grouped_batch_runs_each_prompt_and_answer_once(golden_folder):
    rows = Rows(golden_folder, "tiny-qwen2")
    alone, grouped = pack_batch(rows.batch(grouped=False)), pack_batch(rows.batch(grouped=True))
    assert len(grouped["pixel_values"]) == len(alone["pixel_values"])
    assert len(grouped["packed"].lengths) == len(alone["packed"].lengths) + 1
    extra = grouped["packed"].input_ids.numel() - alone["packed"].input_ids.numel()
    assert extra == grouped["packed"].lengths[2]  # the third answer to the first prompt


def test_questions_about_an_image_run_it_once(golden_folder, load):
    """Of 5 prompts about the first image and 3 about the others only the first of each brings its tiles, and texts."""
    token = load("tiny-qwen2")[0].img_context_token_id
    rows = Rows(golden_folder, "tiny-qwen2")
    alone, shared = pack_batch(rows.batch(grouped=False), token), pack_batch(rows.batch_of_images(), token)
    # the picture in the last place of the last row is new, and so is the blank tile of the second text
    assert len(shared["pixel_values"]) == len(alone["pixel_values"]) + 1 + 1
    assert len(shared["image_tiles"]) == len(alone["image_tiles"]) + 1
    whole = pack_batch(rows.batch_of_images())
    assert whole["packed"].answer_keys == shared["packed"].answer_keys
    assert whole["packed"].input_ids.numel() > 1.5 * shared["packed"].input_ids.numel()


@pytest.mark.parametrize("family", FAMILIES)
def test_in_bfloat16_the_packed_path_is_no_noisier_than_the_plain_one(load, golden_folder, family):
    batch = Rows(golden_folder, family).batch(grouped=True)
    exact_logps, _, exact_grads = run(plain_logps, *load(family), batch)
    models = [model.to(torch.bfloat16) for model in load(family)]
    plain = distances(run(plain_logps, *models, batch), exact_logps, exact_grads)
    switch_to_packed(*models)
    fast = distances(run(fast_logps, *models, batch), exact_logps, exact_grads)
    assert plain[0] > 0 and plain[1] > 0
    assert fast[0] <= 1.5 * plain[0] and fast[1] <= 1.5 * plain[1], f"packed {fast}, plain {plain}"


def distances(result, exact_logps, exact_grads):
    """Root mean square error of the log-probs, and of all gradients together over their norm."""
    logps, _, grads = result
    error = sum((grads[name].float() - grad).square().sum().item() for name, grad in exact_grads.items())
    norm = sum(grad.square().sum().item() for grad in exact_grads.values())
    return (logps - exact_logps).square().mean().sqrt().item(), (error / norm) ** 0.5
