"""What is tried, as data: the starts, and how each arm trains, on which pairs, from which start.

Every arm takes as many steps of as many pairs, by the flags of TRAIN, unless its own say otherwise. All but the arms of
`FULL` train adapters, which costs half as much on a CPU and leaves the weights near those of the start.
"""

from __future__ import annotations

from benchmarks.study.arms import MPO, Arm

MODEL = (
    "--force_image_size 56 --max_dynamic_patch 1 --max_seq_length 512 --grad_checkpoint False --report_to none "
    "--disable_tqdm True --save_strategy no --lr_scheduler_type cosine --warmup_ratio 0.1 --bf16 True --use_cpu True"
)
LORA = "--use_llm_lora 32"
FULL = "--use_llm_lora 0 --freeze_backbone True --freeze_mlp True"
TRAIN = (
    f"{LORA} --per_device_train_batch_size 24 --group_by prompt --max_steps 12 --learning_rate 1e-4 --logging_steps 1"
)
WATCHED = "WATCHED"  # stands for the file of `stages.watched`
WATCH = (
    f"--eval_prompts {WATCHED} --eval_questions 200 --eval_max_new_tokens 48 --per_device_eval_batch_size 64 "
    "--on_fall warn"
)
LONG = "--max_steps 36 --learning_rate 2e-4"
PLAIN_LONG = "--per_device_train_batch_size 8 --group_by none --max_steps 60 --learning_rate 1.6e-5"
FIRST = "--per_device_train_batch_size 8 --group_by none --max_steps 40"
AS_FIRST = f"{FULL} {FIRST} --learning_rate 8e-6"
AT_2E5 = f"{FULL} {FIRST} --learning_rate 2e-5"
AT_1E5 = f"{FULL} {FIRST} --learning_rate 1e-5"
LOOKS = f"{WATCH} --eval_steps 9"
LOOKS_400 = f"{WATCH} --eval_questions 400 --eval_steps 14"
TOGETHER = f"{FULL} --per_device_train_batch_size 16 --group_by prompt --max_steps 30 --learning_rate 2e-5"
TEACH = f"{LORA} --loss_type sft --per_device_train_batch_size 8 --learning_rate 5e-4 --logging_steps 4"
TEACH_PLAIN = f"{FULL} --loss_type sft --per_device_train_batch_size 8 --learning_rate 5e-5 --logging_steps 4"

BASES = {"": "bfloat16", "float32": "float32"}
"""Where a start begins that does not begin at another -> the format that the language model is stored in."""

STARTS = {
    "short": Arm("taught for 24 steps", f"{TEACH} --max_steps 24"),
    "longer": Arm("taught for 64 steps", f"{TEACH} --max_steps 40 --seed 1", start="short"),
    "plain": Arm("one template a kind, all weights taught for 50 steps", f"{TEACH_PLAIN} --max_steps 50"),
    "large": Arm("the same with numbers twice as large", f"{TEACH_PLAIN} --max_steps 50"),
    "exact": Arm("numbers twice as large, weights kept in float32", f"{TEACH_PLAIN} --max_steps 50", start="float32"),
    "habit": Arm("one template a kind, the last step a sum in seven of ten solutions", f"{TEACH_PLAIN} --max_steps 50"),
}
"""How each start is taught the form, on worked solutions of its questions, from the base or another start."""

TOLD = {
    "plain": "one template a kind",
    "large": "one template a kind, large numbers",
    "exact": "large numbers, a start in float32",
    "habit": "a start with a habit",
}
LENGTHS = {
    "as the first try": AS_FIRST,
    "40 steps at 2e-5": AT_2E5,
    "40 steps at 2e-5 that stay there": f"{AT_2E5} --lr_scheduler_type constant_with_warmup",
    "40 steps at 1e-5": AT_1E5,
    "30 steps of 16 together at 2e-5, as the first try": TOGETHER,
    "60 steps at 1.6e-5": f"{FULL} {PLAIN_LONG}",
}


def _trained(start: str, method: str, losses: str, length: str, more: str = "") -> Arm:
    """All weights of one of the starts TOLD, for one of LENGTHS, on its own pairs."""
    return Arm(f"{method}, {TOLD[start]}, {length}", f"{losses} {LENGTHS[length]} {more}".strip(), start=start)


ARMS = {
    "sft": Arm("SFT on chosen", "--loss_type sft", start="longer"),
    "mpo": Arm("MPO", MPO, start="longer"),
    "dpo": Arm("DPO", "--loss_type sigmoid", start="longer"),
    "dpo+": Arm("DPO+", "--loss_type sigmoid+", start="longer"),
    "bco": Arm("BCO", "--loss_type bco_pair", start="longer"),
    "bco+": Arm("BCO and NLL", "--loss_type bco_pair+", start="longer"),
    "coin": Arm("MPO, chosen and rejected by a coin", MPO, pairs="coin", start="longer"),
    "swapped": Arm("MPO, chosen and rejected swapped", MPO, pairs="swapped", start="longer"),
    "right steps": Arm("MPO, every chosen step right", MPO, pairs="right steps", start="longer"),
    "one slip": Arm("MPO, one line differs", MPO, pairs="one slip", start="longer"),
    "one a question": Arm("MPO, one pair a question", MPO, pairs="one a question", start="longer"),
    "rate 3e-5": Arm("MPO, rate 3e-5", f"{MPO} --learning_rate 3e-5", start="longer"),
    "rate 3e-4": Arm("MPO, rate 3e-4", f"{MPO} --learning_rate 3e-4", start="longer"),
    "rate 1e-3": Arm("MPO, rate 1e-3", f"{MPO} --learning_rate 1e-3", start="longer"),
    "beta 0.5": Arm("MPO, beta 0.5", f"{MPO} --beta 0.5", start="longer"),
    "nll 3": Arm("MPO, NLL weight 3", f"{MPO} --rpo_alpha 3", start="longer"),
    "nll 10": Arm("MPO, NLL weight 10", f"{MPO} --rpo_alpha 10", start="longer"),
    "shuffled": Arm("MPO, pairs of a question apart", f"{MPO} --group_by none", start="longer"),
    "full 8e-6": Arm("MPO, all weights, rate 8e-6", f"{MPO} {FULL} --learning_rate 8e-6", start="longer"),
    "full 1e-6": Arm("MPO, all weights, rate 1e-6", f"{MPO} {FULL} --learning_rate 1e-6", start="longer"),
    "first try": Arm(
        "MPO as in the first try: all weights, rate 8e-6, 40 steps of 8, shuffled",
        f"{MPO} {AS_FIRST} {LOOKS} --save_strategy steps --save_steps 40",
        start="longer",
    ),
    "long sft": Arm("SFT on chosen, 36 steps at 2e-4", f"--loss_type sft {LONG}", start="longer"),
    "long mpo": Arm("MPO, 36 steps at 2e-4", f"{MPO} {LONG}", start="longer"),
    "long gold": Arm(
        "SFT on worked solutions, 36 steps at 2e-4", f"--loss_type sft {LONG}", pairs="gold", start="longer"
    ),
    "plain sft": _trained("plain", "SFT on chosen", "--loss_type sft", "as the first try"),
    "plain mpo": _trained("plain", "MPO", MPO, "as the first try", LOOKS),
    "plain long sft": _trained("plain", "SFT on chosen", "--loss_type sft", "60 steps at 1.6e-5"),
    "plain long mpo": _trained("plain", "MPO", MPO, "60 steps at 1.6e-5"),
    "plain trl": _trained("plain", "TRL's DPOTrainer", MPO, "as the first try"),
    "large mpo": _trained("large", "MPO", MPO, "as the first try", LOOKS),
    "large 2e-5": _trained("large", "MPO", MPO, "40 steps at 2e-5", LOOKS),
    "large together": _trained("large", "MPO", MPO, "30 steps of 16 together at 2e-5, as the first try", LOOKS_400),
    "exact sft": _trained("exact", "SFT on chosen", "--loss_type sft", "as the first try"),
    "exact mpo": _trained("exact", "MPO", MPO, "as the first try", LOOKS),
    "exact 2e-5 sft": _trained("exact", "SFT on chosen", "--loss_type sft", "40 steps at 2e-5"),
    "exact 2e-5": _trained("exact", "MPO", MPO, "40 steps at 2e-5", LOOKS),
    "exact steady": _trained("exact", "MPO", MPO, "40 steps at 2e-5 that stay there", LOOKS),
    "exact 2e-5 nll 3": _trained("exact", "MPO, NLL weight 3", f"{MPO} --rpo_alpha 3", "40 steps at 2e-5"),
    "exact 2e-5 nll 10": _trained("exact", "MPO, NLL weight 10", f"{MPO} --rpo_alpha 10", "40 steps at 2e-5"),
    "habit sft": _trained("habit", "SFT on chosen", "--loss_type sft", "40 steps at 2e-5"),
    "habit mpo": _trained("habit", "MPO", MPO, "40 steps at 2e-5"),
    "habit nll 3": _trained("habit", "MPO, NLL weight 3", f"{MPO} --rpo_alpha 3", "40 steps at 2e-5"),
    "habit slow sft": _trained("habit", "SFT on chosen", "--loss_type sft", "40 steps at 1e-5"),
    "habit slow nll 3": _trained("habit", "MPO, NLL weight 3", f"{MPO} --rpo_alpha 3", "40 steps at 1e-5"),
    "habit dpo": _trained("habit", "DPO", "--loss_type sigmoid", "40 steps at 2e-5"),
    "habit dpo+": _trained("habit", "DPO+", "--loss_type sigmoid+", "40 steps at 2e-5"),
    "habit bco": _trained("habit", "BCO", "--loss_type bco_pair", "40 steps at 2e-5"),
    "habit trl": _trained("habit", "TRL's DPOTrainer", MPO, "40 steps at 2e-5"),
    "habit swapped": Arm(
        "MPO, a start with a habit, chosen and rejected swapped, 40 steps at 2e-5",
        f"{MPO} {AT_2E5} {LOOKS}",
        pairs="swapped",
        start="habit",
    ),
    "short sft": Arm("SFT on chosen, start taught for 24 steps", "--loss_type sft", start="short"),
    "short mpo": Arm("MPO, start taught for 24 steps", MPO, start="short"),
    "gold": Arm("SFT on worked solutions of the questions", "--loss_type sft", pairs="gold", start="longer"),
}
BY_TRL = ("plain trl", "habit trl")  # arms that `trl_control` trains
RIVALS = ("sft", "dpo")
RIVALS_OF = {
    "short mpo": ("short sft",),
    "long mpo": ("long sft",),
    "plain mpo": ("plain sft",),
    "plain trl": ("plain sft",),
    "plain long mpo": ("plain long sft",),
    **dict.fromkeys(("habit mpo", "habit nll 3", "habit dpo+", "habit bco", "habit trl"), ("habit sft", "habit dpo")),
    "habit dpo": ("habit sft",),
    "habit slow nll 3": ("habit slow sft",),
    "exact mpo": ("exact sft",),
    **dict.fromkeys(("exact 2e-5", "exact steady", "exact 2e-5 nll 3", "exact 2e-5 nll 10"), ("exact 2e-5 sft",)),
}
"""Arm -> the SFT, and the DPO where there is one, that it is compared with where these are not RIVALS."""
CORE = ("sft", "mpo", "dpo", "dpo+", "bco")
