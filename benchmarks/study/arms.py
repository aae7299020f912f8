"""What the study compares, as data: how each arm trains, from the same base, on the same pairs, for as many steps."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Arm:
    """One way to train.

    Attributes:
        title: in tables.
        flags: of `internvl_chat.train_mpo`, besides those that all arms share.
        pairs: which of `pairs.SOURCES`.
        start: the arm whose checkpoint it starts from and is held to; empty for the base.
        length: how often the study's number of steps.
    """

    title: str
    flags: str
    pairs: str = "own"
    start: str = ""
    length: int = 1


MPO = "--loss_type sigmoid,bco_pair"
ARMS = {
    "sft": Arm("SFT on chosen", "--loss_type sft"),
    "dpo": Arm("DPO", "--loss_type sigmoid"),
    "dpo+": Arm("DPO+", "--loss_type sigmoid+"),
    "bco": Arm("BCO", "--loss_type bco_pair"),
    "mpo": Arm("MPO", MPO),
    "ceiling": Arm("SFT on gold steps", "--loss_type sft", pairs="gold"),
    "swapped": Arm("MPO, chosen and rejected swapped", MPO, pairs="swapped"),
    "bco+": Arm("BCO+", "--loss_type bco_pair+"),
    "ipo": Arm("IPO", "--loss_type ipo"),
    "ipo+": Arm("IPO+", "--loss_type ipo+"),
    "cdpo": Arm("cDPO", "--loss_type sigmoid --label_smoothing 0.1"),
    "cdpo+": Arm("cDPO+", "--loss_type sigmoid+ --label_smoothing 0.1"),
    "robust": Arm("robust DPO", "--loss_type robust --label_smoothing 0.1"),
    "robust+": Arm("robust DPO+", "--loss_type robust+ --label_smoothing 0.1"),
    "sppo": Arm("SPPO", "--loss_type sppo_hard"),
    "sppo+": Arm("SPPO+", "--loss_type sppo_hard+"),
    "aot": Arm("AOT", "--loss_type aot"),
    "aot+": Arm("AOT+", "--loss_type aot+"),
    "tr-dpo": Arm("TR-DPO", "--loss_type sigmoid --reference model --sync_ref_model True --ref_model_sync_steps 50"),
    "tr-dpo+": Arm("TR-DPO+", "--loss_type sigmoid+ --reference model --sync_ref_model True --ref_model_sync_steps 50"),
    "orpo": Arm("ORPO", "--loss_type orpo"),
    "no delta": Arm("MPO without delta", "--loss_type sigmoid,bco_pair_zero --loss_weights 0.8,0.2 --rpo_alpha 1"),
    "correctness": Arm("MPO, correctness pairs only", MPO, pairs="correctness"),
    "dropout": Arm("MPO, DropoutNTP pairs only", MPO, pairs="dropout"),
    "both": Arm("MPO, correctness and DropoutNTP pairs", MPO, pairs="both"),
    "steps": Arm("MPO, pairs by step scores", MPO, pairs="steps"),
    "grouped": Arm("MPO, pairs of a prompt together", f"{MPO} --group_prompts True"),
    "weights 0.5": Arm("MPO, weights 0.5 and 0.5", f"{MPO} --loss_weights 0.5,0.5"),
    "weights 0.2": Arm("MPO, weights 0.2 and 0.8", f"{MPO} --loss_weights 0.2,0.8"),
    "beta 0.05": Arm("MPO, beta 0.05", f"{MPO} --beta 0.05"),
    "beta 0.3": Arm("MPO, beta 0.3", f"{MPO} --beta 0.3"),
    "twice": Arm("MPO, twice as long", MPO, length=2),
    "second": Arm("MPO, a second round", MPO, pairs="second", start="mpo"),
}
STARTS = {arm.start for arm in ARMS.values()}
CORE = ("sft", "dpo", "dpo+", "bco", "mpo")
