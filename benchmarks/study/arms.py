"""What the study compares, as data: how each arm trains, from the same base, on the same pairs, for as many steps."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Arm:
    """One way to train.

    Attributes:
        title: in tables.
        flags: of `internvl_chat.train_mpo`, besides those that all arms share.
        pairs: `own`, from the base's own samples; `gold`, right steps and steps with a slip; `swapped`, own pairs with
            chosen and rejected exchanged; `correctness`, own pairs without those by format.
    """

    title: str
    flags: str
    pairs: str = "own"


ARMS = {
    "sft": Arm("SFT on chosen", "--loss_type sft"),
    "dpo": Arm("DPO", "--loss_type sigmoid"),
    "dpo+": Arm("DPO+", "--loss_type sigmoid+"),
    "bco": Arm("BCO", "--loss_type bco_pair"),
    "mpo": Arm("MPO", "--loss_type sigmoid,bco_pair"),
    "ceiling": Arm("SFT on gold steps", "--loss_type sft", pairs="gold"),
    "swapped": Arm("MPO, chosen and rejected swapped", "--loss_type sigmoid,bco_pair", pairs="swapped"),
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
    "correctness": Arm("MPO, correctness pairs only", "--loss_type sigmoid,bco_pair", pairs="correctness"),
    "grouped": Arm("MPO, pairs of a prompt together", "--loss_type sigmoid,bco_pair --group_prompts True"),
    "weights 0.5": Arm("MPO, weights 0.5 and 0.5", "--loss_type sigmoid,bco_pair --loss_weights 0.5,0.5"),
    "weights 0.2": Arm("MPO, weights 0.2 and 0.8", "--loss_type sigmoid,bco_pair --loss_weights 0.2,0.8"),
    "beta 0.05": Arm("MPO, beta 0.05", "--loss_type sigmoid,bco_pair --beta 0.05"),
    "beta 0.3": Arm("MPO, beta 0.3", "--loss_type sigmoid,bco_pair --beta 0.3"),
}
CORE = ("sft", "dpo", "dpo+", "bco", "mpo")
