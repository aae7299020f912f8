"""The trainer against the golden figures of the original stack, and what it does when rows or losses go wrong."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from internvl_chat.arguments import MPOConfig
from internvl_chat.data.dataset import MixtureDataset
from internvl_chat.packed.logps import answer_logps
from internvl_chat.packed.packing import with_packed
from internvl_chat.records.samples import SkippedRow
from internvl_chat.reference.cache import LogpsCache
from internvl_chat.reference.frozen import CachedReference
from internvl_chat.run.trainer import MultimodalDPOTrainer

BATCHES = ("b1", "b2", "b3", "b4", "b5")


@pytest.fixture
def make_trainer(golden, tokenizer, tmp_path):
    def make(policy, reference, train_dataset=None, **settings):
        args = MPOConfig(output_dir=str(tmp_path), report_to="none", disable_tqdm=True, **settings)
        return MultimodalDPOTrainer(
            policy,
            reference,
            args,
            processing_class=tokenizer,
            source=golden.ckpt_policy,
            train_dataset=train_dataset,
        )

    return make


def keyless(name, tensor):
    """Without the key third of a ViT qkv.bias, whose true gradient is zero."""
    if not name.endswith("attn.qkv.bias"):
        return tensor
    query, _, value = tensor.chunk(3)
    return torch.cat([query, value])


@pytest.mark.parametrize("name", BATCHES)
def test_loss_and_its_parts_equal_the_golden_ones(golden, golden_batch, make_trainer, policy, reference, name):
    trainer = make_trainer(policy, reference)
    trainer.model.train()
    loss, result = trainer.compute_loss(trainer.model, golden_batch(name), return_outputs=True)
    expected = golden.loss["batches"][name]
    assert loss.item() == pytest.approx(expected["loss"], abs=2e-5)
    assert result.nll.item() == pytest.approx(expected["policy_nll_loss"], abs=2e-5)
    assert trainer.running_mean.mean.item() == pytest.approx(expected["running"]["mean"], abs=2e-5)
    for kind in ("sigmoid", "bco_pair"):
        assert result.losses[kind].tolist() == pytest.approx(expected["components"][kind]["losses"], abs=3e-5)
    metrics = trainer.sums["train"].read(trainer.accelerator)
    for key in ("rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins", "nll_loss"):
        assert metrics[key] == pytest.approx(expected["metrics"][key], abs=3e-5), key
    for key in ("logps/chosen", "logps/rejected"):
        assert metrics[key] == pytest.approx(expected["metrics"][key], abs=3e-4), key


@pytest.mark.parametrize("name", BATCHES)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradient_norms_equal_the_golden_ones(
    golden, golden_batch, make_trainer, policy, reference, name, checkpointing
):
    trainer = make_trainer(policy, reference)
    trainer.model.train()
    if checkpointing:
        trainer.model.gradient_checkpointing_enable({"use_reentrant": False})
    trainer.compute_loss(trainer.model, golden_batch(name)).backward()
    total = math.sqrt(sum(p.grad.double().square().sum().item() for p in policy.parameters()))
    assert total == pytest.approx(golden.loss["batches"][name]["grad_total_norm"], rel=1e-4)
    for key, parameter in policy.named_parameters():
        assert parameter.grad.norm().item() == pytest.approx(golden.grads[name][key]["norm"], rel=1e-4, abs=1e-6), key


def test_every_gradient_of_a_batch_equals_the_golden_one(golden_folder, golden_batch, make_trainer, policy, reference):
    trainer = make_trainer(policy, reference)
    trainer.model.train()
    trainer.compute_loss(trainer.model, golden_batch("b2")).backward()
    expected = load_file(golden_folder / "out" / "grad_b2_tiny-qwen2.safetensors")
    assert set(expected) == {name for name, _ in policy.named_parameters()}
    for name, parameter in policy.named_parameters():
        ours, theirs = keyless(name, parameter.grad), keyless(name, expected[name])
        assert (ours - theirs).norm() <= 1e-5 * theirs.norm() + 1e-7, name


def test_beta_label_smoothing_and_nll_mode_reach_the_loss(golden_batch, make_trainer, policy, reference):
    settings = {"beta": 0.3, "label_smoothing": 0.2, "nll_mode": "pair"}
    trainer = make_trainer(policy, reference, **settings)
    batch = with_packed(golden_batch("b3"), policy.img_context_token_id)
    pairs, lengths = batch["packed"].pair_answers, batch["packed"].lengths
    with torch.no_grad():
        ours, theirs = (answer_logps(model, batch) for model in (policy, reference))
    chosen, rejected = 0.3 * (ours - theirs)[pairs]
    margins, delta = chosen - rejected, (chosen + rejected).mean() / 2
    result = trainer.compute_loss(trainer.model.train(), batch, return_outputs=True)[1]
    smoothed = 0.8 * (-margins).exp().log1p() + 0.2 * margins.exp().log1p()
    assert result.losses["sigmoid"].tolist() == pytest.approx(smoothed.tolist(), abs=1e-5)
    quality = (delta - chosen).exp().log1p() + (rejected - delta).exp().log1p()
    assert result.losses["bco_pair"].tolist() == pytest.approx(quality.tolist(), abs=1e-5)
    assert trainer.running_mean.mean.item() == pytest.approx(delta.item(), abs=1e-5)
    assert result.nll.item() == pytest.approx(-(ours / lengths)[pairs[0]].mean().item(), abs=1e-5)


def test_delta_follows_the_golden_sequence(golden, golden_batch, make_trainer, policy, reference):
    trainer = make_trainer(policy, reference)
    trainer.model.train()
    for step in golden.loss["running_sequence_no_update"]:
        loss = trainer.compute_loss(trainer.model, golden_batch(step["batch"]))
        assert loss.item() == pytest.approx(step["loss"], abs=2e-5)
        assert trainer.running_mean.mean.item() == pytest.approx(step["running"]["mean"], abs=2e-5)


@pytest.mark.parametrize("variant", ["hf_groups_noclip", "hf_groups_clip1", "all_decay_clip1"])
def test_four_steps_equal_the_golden_training(golden, golden_batch, make_trainer, policy, reference, variant):
    trainer = make_trainer(policy, reference)
    expected = golden.train[variant]
    exempt = set(expected.get("no_decay_params", []))
    groups = [
        {"params": [p for n, p in policy.named_parameters() if n not in exempt], "weight_decay": 0.05},
        {"params": [p for n, p in policy.named_parameters() if n in exempt], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-4, eps=1e-8)
    trainer.model.train()
    for step in expected["steps"]:
        loss = trainer.compute_loss(trainer.model, golden_batch(step["batch"]))
        assert loss.item() == pytest.approx(step["loss"], abs=1e-4)
        loss.backward()
        clip = expected["optimizer"]["clip"] or math.inf
        norm = torch.nn.utils.clip_grad_norm_(policy.parameters(), clip)
        assert norm.item() == pytest.approx(step["grad_norm"], rel=1e-4)
        optimizer.step()
        optimizer.zero_grad()
    for name, parameter in policy.named_parameters():
        if not name.endswith("attn.qkv.bias"):
            assert parameter.norm().item() == pytest.approx(expected["weights_after"][name]["norm"], rel=1e-5), name


def test_trainer_loop_equals_the_golden_one(golden, golden_folder, make_trainer, policy, reference, tokenizer):
    """Data, sampler, accumulation, clipping, optimizer and log together: four steps of Trainer.train()."""
    expected = golden.hfloop
    dataset = MixtureDataset(
        golden_folder / "data" / "meta.json", tokenizer, template="internvl2_5", num_image_token=4, image_size=56
    )
    trainer = make_trainer(
        policy,
        reference,
        train_dataset=dataset,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        max_steps=4,
        learning_rate=1e-4,
        weight_decay=0.05,
        lr_scheduler_type="constant",
        max_grad_norm=1.0,
        logging_steps=1,
        save_strategy="no",
        train_sampling_strategy="sequential",
    )
    trainer.train()
    for ours, theirs in zip(trainer.state.log_history[:4], expected["log_history"], strict=False):
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-4)
        for key in ("rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins", "nll_loss"):
            assert ours[key] == pytest.approx(theirs[key], abs=2e-4), key
        for key in ("logps/chosen", "logps/rejected"):
            assert ours[key] == pytest.approx(theirs[key], abs=1e-3), key
    assert trainer.running_mean.mean.item() == pytest.approx(expected["micro_batches"][-1]["running"]["mean"], abs=1e-4)
    for name, parameter in policy.named_parameters():
        if not name.endswith("attn.qkv.bias"):
            assert parameter.norm().item() == pytest.approx(expected["weights_after"][name]["norm"], rel=5e-6), name


def test_weight_decay_spares_what_the_original_spared(golden, make_trainer, policy, reference):
    trainer = make_trainer(policy, reference, weight_decay=0.05)
    spared = {name for name, _ in policy.named_parameters()} - set(trainer.get_decay_parameter_names(policy))
    assert spared == set(golden.train["hf_groups_clip1"]["no_decay_params"])


def test_reference_never_trains_and_has_no_drop_path(golden_batch, make_trainer, policy, reference):
    before = {name: p.clone() for name, p in reference.named_parameters()}
    trainer = make_trainer(policy, reference)
    trainer.model.train()
    trainer.compute_loss(trainer.model, golden_batch("b1")).backward()
    assert not trainer.reference.unwrapped.training
    for name, parameter in reference.named_parameters():
        assert parameter.grad is None and not parameter.requires_grad
        assert torch.equal(parameter, before[name])


@pytest.mark.parametrize(("layer", "is_frozen", "looks"), [(-1, False, False), (-2, False, True), (-2, True, False)])
def test_ddp_looks_for_unused_weights_where_there_are_some(make_trainer, policy, reference, layer, is_frozen, looks):
    policy.config.select_layer = layer
    policy.vision_model.requires_grad_(not is_frozen)
    assert make_trainer(policy, reference).args.ddp_find_unused_parameters is looks


def test_a_user_s_word_on_unused_weights_stands(make_trainer, policy, reference):
    assert make_trainer(policy, reference, ddp_find_unused_parameters=True).args.ddp_find_unused_parameters


def test_losses_divide_by_the_pairs_of_the_whole_step(golden_batch, make_trainer, policy, reference):
    """Micro-batches of 1 and 3 pairs weigh 1/4 and 3/4, not 1/2 each."""
    trainer = make_trainer(policy, reference, loss_type="sigmoid")
    trainer.model.train()
    small, large = golden_batch("b1"), golden_batch("b3")
    count = trainer._get_num_items_in_batch([small, large], torch.device("cpu"))
    assert count.item() == 4
    whole = [trainer.compute_loss(trainer.model, batch).item() for batch in (small, large)]
    shares = [trainer.compute_loss(trainer.model, b, num_items_in_batch=count).item() for b in (small, large)]
    assert shares == pytest.approx([whole[0] / 4, whole[1] * 3 / 4], rel=1e-6)


def test_evaluation_leaves_the_delta_alone(golden_batch, make_trainer, policy, reference):
    trainer = make_trainer(policy, reference)
    trainer.model.train()
    trainer.compute_loss(trainer.model, golden_batch("b1"))
    before = trainer.running_mean.state_dict()
    trainer.model.eval()
    trainer.prediction_step(trainer.model, golden_batch("b2"), prediction_loss_only=True)
    assert trainer.running_mean.state_dict() == before
    assert trainer.sums["eval"].num_pairs == 2


def test_the_loss_of_an_evaluation_is_the_mean_over_pairs(golden_batch, make_trainer, policy, reference):
    """Of batches of 1 and 3 pairs, not of the two batches."""
    trainer = make_trainer(policy, reference)
    trainer.model.eval()
    small, large = (
        trainer.prediction_step(trainer.model, golden_batch(name), prediction_loss_only=True)[0].item()
        for name in ("b1", "b3")
    )
    means = trainer.sums["eval"].read(trainer.accelerator)
    assert abs(small - large) > 0.01 and means["loss"] == pytest.approx((small + 3 * large) / 4)


class Books(TrainerCallback):
    """What a step leaves behind: weights, delta, sums of the metrics and of the loss."""

    def __init__(self):
        self.trainer, self.after = None, []

    def on_step_end(self, args, state, control, **kwargs):
        trainer = self.trainer
        weights = {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}
        sums = trainer.sums["train"].state_dict() | {"seconds": None}
        self.after.append((weights, trainer.running_mean.state_dict(), sums, trainer._tr_loss.item()))


@pytest.fixture
def rows(golden_folder, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    meta = golden_folder / "data" / "meta.json"
    return MixtureDataset(meta, tokenizer, template="internvl2_5", num_image_token=4, image_size=56)


def test_a_skipped_step_leaves_everything_as_it_was(make_trainer, policy, reference, rows, tmp_path, caplog):
    """The gradient of the second of three steps is NaN, its loss is not; the log has one entry for all three."""
    settings = {"max_steps": 3, "per_device_train_batch_size": 2, "logging_steps": 3, "save_strategy": "no"}
    settings |= {"learning_rate": 1e-3, "weight_decay": 0.1, "lr_scheduler_type": "constant", "max_skipped_share": 1}
    trainer = make_trainer(policy, reference, rows, on_non_finite="skip", **settings)
    books = Books()
    books.trainer = trainer
    trainer.add_callback(books)
    policy.mlp1[0].weight.register_hook(lambda grad: grad * math.nan if trainer.state.global_step == 1 else grad)
    result = trainer.train()
    (weights, *before), (same_weights, *skipped), (moved, *after) = books.after
    assert all(torch.equal(weight, same_weights[name]) for name, weight in weights.items())
    assert skipped == before and all(one != other for one, other in zip(before, after, strict=True))
    assert not torch.equal(weights["mlp1.0.weight"], moved["mlp1.0.weight"])
    [entry] = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert entry["loss"] == pytest.approx(after[2] / 2)  # of the two steps taken
    assert result.training_loss == pytest.approx(after[2] / 2)
    assert (entry["skipped_steps"], entry["skipped_rows"]) == (1, 2)
    lines = [json.loads(line) for line in (tmp_path / "skipped.jsonl").read_text().splitlines()]
    assert len(lines) == 2 and all("norm of the gradient is nan" in line["reason"] for line in lines)
    assert "step 2 is skipped: losses are finite" in caplog.text
    assert trainer.run_state()["skipped_steps"] == 1
    ledger = json.loads((tmp_path / "ledger.json").read_text())
    assert (ledger["promised"], ledger["used"], ledger["skipped"]) == (6, 4, 2)


def test_the_loader_takes_no_random_number_of_the_training(make_trainer, policy, reference, rows):
    """Else drop path after an evaluation, or after a resume, would be another than without."""
    trainer = make_trainer(policy, reference, rows, per_device_train_batch_size=2)
    before = torch.random.get_rng_state()
    next(iter(trainer.get_train_dataloader()))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_loss_that_is_not_finite_names_the_rows(golden_batch, make_trainer, policy, reference):
    trainer = make_trainer(policy, reference)
    trainer.model.train()
    with torch.no_grad():
        policy.language_model.lm_head.weight[5, 5] = math.nan
    trainer.compute_loss(trainer.model, golden_batch("b2"))
    with pytest.raises(FloatingPointError, match=r"step 1: loss is nan.*'sigmoid': nan.*rows \['en-4', 'en-3'\]"):
        trainer._get_grad_norm(trainer.model)


def test_a_batch_of_skipped_rows_gives_zero_gradients_and_a_line_each(make_trainer, policy, reference, tmp_path):
    trainer = make_trainer(policy, reference, max_skipped_share=1)
    trainer.model.train()
    skip = SkippedRow(row_id="set:3", file="pairs.jsonl", line=3, reason="image is torn", fault="torn")
    loss = trainer.compute_loss(trainer.model, {"skipped": [skip]}, num_items_in_batch=torch.tensor(1))
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is not None and not p.grad.any() for p in policy.parameters())
    assert trainer.running_mean.count.item() == 0
    assert trainer.ledger.flush(is_writer=True) == 1
    line = json.loads((tmp_path / "skipped.jsonl").read_text())
    assert line == {"row_id": "set:3", "file": "pairs.jsonl", "line": 3, "reason": "image is torn", "fault": "torn"}


def test_a_batch_of_skipped_rows_needs_nothing_of_a_cache(make_trainer, policy, reference, tmp_path):
    """Its blank row is in no cache: the run goes on, the cache stays filled."""
    trainer = make_trainer(policy, reference, max_skipped_share=1)
    trainer.reference = CachedReference(LogpsCache(tmp_path / "cache"))
    skip = SkippedRow(row_id="set:3", file="pairs.jsonl", line=3, reason="an answer is empty", fault="empty_answer")
    for model in (trainer.model.train(), trainer.model.eval()):
        assert trainer.compute_loss(model, {"skipped": [skip]}).item() == 0
    loss, outputs = trainer.compute_loss(trainer.model, {"skipped": [skip]}, return_outputs=True)
    assert loss.item() == 0 and outputs is None


def test_a_preference_loss_without_reference_is_refused(make_trainer, policy):
    with pytest.raises(ValueError, match="compares with a reference"):
        make_trainer(policy, None)


def test_fine_tuning_is_the_nll_of_chosen_answers(golden, golden_batch, make_trainer, policy):
    trainer = make_trainer(policy, None, loss_type="sft")
    batch = {name: value for name, value in golden_batch("b3").items() if not name.startswith("rejected")}
    loss = trainer.compute_loss(trainer.model.train(), batch)
    assert loss.item() == pytest.approx(golden.loss["batches"]["b3"]["policy_nll_loss"], abs=2e-5)


def test_full_determinism_reaches_torch_and_all_that_a_step_does_has_a_form_for_it(
    golden_batch, make_trainer, policy, reference, monkeypatch
):
    """What makes a resume on a GPU exact. On a CPU: operations without a deterministic form would raise."""
    names = ("CUDA_LAUNCH_BLOCKING", "CUBLAS_WORKSPACE_CONFIG", "FLASH_ATTENTION_DETERMINISTIC")
    for name in (*names, "ASCEND_LAUNCH_BLOCKING", "HCCL_DETERMINISTIC"):
        monkeypatch.setenv(name, "")  # so that they are as they were behind this test
    try:
        trainer = make_trainer(policy, reference, full_determinism=True)
        assert (
            torch.are_deterministic_algorithms_enabled() and not torch.is_deterministic_algorithms_warn_only_enabled()
        )
        trainer.compute_loss(trainer.model.train(), golden_batch("b2")).backward()
    finally:
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = False, False
