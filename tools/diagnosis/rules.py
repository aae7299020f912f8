"""The rules that a run is held against: what each looks at, its threshold, why it is there, and what to do about it.

They ask for directions and for what no healthy run has, never for our sizes: a run is compared with its own begin.
Where thresholds come from: docs/reading_curves.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tools.diagnosis import held_out, learning, steadiness, surroundings
from tools.diagnosis.evidence import Evidence
from tools.diagnosis.verdicts import Judged, Sign

Judge = Callable[[Evidence], Judged | None]


@dataclass(frozen=True)
class RunRule:
    """One rule of the report.

    Attributes:
        name: what holds where all is well.
        looks_at: the curves or files, for people.
        threshold: when it is a fault.
        reason: what a fault means.
        cure: what to do about it.
        judge: looks at a run; None where the run has nothing of what it looks at.
    """

    name: str
    looks_at: str
    threshold: str
    reason: str
    cure: str
    judge: Judge


@dataclass(frozen=True)
class RuleOutcome:
    """What a rule found in a run, as a page shows it."""

    rule: RunRule
    value: str
    sign: Sign


RULES = (
    RunRule(
        "Every figure is a number",
        "all curves",
        "one that is not finite",
        "A loss or gradient that is not finite ruins every weight in one step; a mean over it is none either.",
        "Look at the rows of that step, lower the learning rate, or train in bfloat16 in place of float16.",
        steadiness.all_finite,
    ),
    RunRule(
        "No curve breaks off",
        "loss, gradient, rewards, NLL, learning rate",
        "missing in an entry after it was there",
        "What is not logged is not watched: another process wrote into this log, or a part of the loss went missing.",
        "Start one run per output folder; look at the last entries of log.jsonl.",
        steadiness.unbroken,
    ),
    RunRule(
        "Figures agree with each other",
        "rewards/chosen, rewards/rejected, rewards/margins",
        "margin not chosen minus rejected, by over 5 %",
        "The margin is the difference of the rewards in every entry; these come from different runs or were changed.",
        "Start one run per output folder, and read the log that the run wrote.",
        steadiness.consistent,
    ),
    RunRule(
        "The learning rate is on",
        "learning_rate",
        "0 or below in over 5 % of the entries between first and last",
        "At a rate of 0 nothing is learned, however the curves look.",
        "Set --learning_rate; look at --lr_scheduler_type, --warmup_steps and --max_steps.",
        learning.rate_is_on,
    ),
    RunRule(
        "The learning rate follows its schedule",
        "learning_rate, the flag",
        "highest below half or above 1.1 times the flag, or one entry 1.5 times both its neighbours",
        "A warm-up longer than the run never reaches its rate; a rate that leaps is no schedule.",
        "Shorten --warmup_steps, or look at what changed the rate.",
        learning.rate_follows,
    ),
    RunRule(
        "The loss does not leap",
        "loss and its parts",
        "an entry 1.5 times its neighbours (a part of the loss: 10 times), far out of the noise",
        "Single steps on broken or mislabelled rows, or a rate at the edge of what the model bears.",
        "Look at the rows of that step; lower --learning_rate or --max_grad_norm, raise the batch.",
        steadiness.loss_leaps,
    ),
    RunRule(
        "The loss does not come back up",
        "loss",
        "a rolling mean 30 % above an earlier one, beyond the noise",
        "The run diverges, or lost in the middle what it had learned.",
        "Lower --learning_rate, raise the warm-up, and go back to a checkpoint from before.",
        steadiness.loss_comes_back,
    ),
    RunRule(
        "The loss falls",
        "loss",
        "flat, zero, or no lower at the end where it is known to 2 %",
        "A loss that does not move says that nothing is learned; one of exactly 0 that no token carries a label.",
        "Raise --learning_rate, check what is frozen, look at the pairs with tools/view_pairs.py.",
        learning.loss_falls,
    ),
    RunRule(
        "The gradient keeps its size",
        "grad_norm",
        "5 times its begin at the end, or an entry 10 times its neighbours",
        "A gradient that grows comes before a loss that diverges.",
        "Lower --learning_rate, raise the warm-up; look at the rows of the entry that stands out.",
        steadiness.gradient_explodes,
    ),
    RunRule(
        "There is a gradient",
        "grad_norm",
        "0 in over 5 % of the entries, or a thousandth of its begin at the end",
        "Where no gradient arrives nothing is learned: all is frozen, or the loss is at its floor.",
        "Check the freeze flags and adapters; with a loss near 0, stop earlier or use harder pairs.",
        steadiness.gradient_vanishes,
    ),
    RunRule(
        "Answers are told apart",
        "rewards/margins",
        "end not above 0.01 at beta 0.1, or not above its begin beyond the noise",
        "The margin is what preference training raises. Flat, nothing is learned; negative, the wrong answers are.",
        "Raise --learning_rate; check that chosen and rejected differ and are the right way round.",
        learning.margin_rises,
    ),
    RunRule(
        "The chosen answer wins more often than chance",
        "rewards/accuracies",
        "below 0.52 at the end",
        "At a half or below the run orders pairs no better than a coin: nothing learned, or labels swapped.",
        "Check the labels with tools/view_pairs.py; raise --learning_rate or train longer.",
        learning.beats_chance,
    ),
    RunRule(
        "What was learned stays",
        "rewards/margins, rewards/accuracies",
        "margin below half of its highest level, or accuracy 0.1 below its own",
        "The policy had learned the pairs and lost them: it collapsed.",
        "Take a checkpoint from before; lower --learning_rate.",
        learning.learned_stays,
    ),
    RunRule(
        "Chosen answers stay likely",
        "rewards/chosen",
        "at the end below -0.5 at beta 0.1 and lower than half the margin",
        "Rejected and chosen answers become less likely together: the model unlearns its right ones.",
        "Use --rpo_alpha 1, which holds the chosen answers; with it, lower --learning_rate.",
        learning.chosen_stays,
    ),
    RunRule(
        "The NLL of chosen answers does not rise",
        "nll_loss",
        "end 15 % above its begin, beyond the noise",
        "The model finds its own right answers less likely than at the start.",
        "Use --rpo_alpha 1; with it, lower --learning_rate.",
        learning.nll_stays,
    ),
    RunRule(
        "The policy stays near its reference",
        "kl/chosen, rewards and margin over beta",
        "chosen 0.5 nats per token below the reference, 2 above what the NLL explains, or a margin of 1,000 nats",
        "Far from its reference the policy is another model: it has learned the signal of the pairs, not the task.",
        "Lower --learning_rate, raise --beta, train less.",
        learning.near_reference,
    ),
    RunRule(
        "Rewards do not leap",
        "rewards, delta, kl/chosen",
        "an entry further from its neighbours than the whole run is wide",
        "Rewards move as the weights do, slowly: a leap is a step that broke something, or rows unlike all others.",
        "Look at the rows of that step; lower --learning_rate.",
        steadiness.rewards_leap,
    ),
    RunRule(
        "Answers keep their length",
        "lengths of answers",
        "end 1.5 times or two thirds of the begin, beyond the noise",
        "Lengths of trained pairs are drawn at random, and sampled ones should not drift: these run away.",
        "Shuffle the rows; where the policy samples, penalise length and look at the answers.",
        steadiness.lengths_stay,
    ),
    RunRule(
        "The policy does not prefer length",
        "lengths/preferred, lengths/margin",
        "preferred answers longer than the data's by a tenth of an answer at the end, beyond the noise",
        "The higher reward goes to the longer answer more often than in the data: length is learned, not reason.",
        "Pair answers of like length.",
        learning.prefers_length,
    ),
    RunRule(
        "Held-out rows follow",
        "eval_loss, eval_rewards/accuracies",
        "loss 10 % above its lowest while that of training falls, or accuracy 0.3 below that of training",
        "Training rows are learned by heart: the run overfits.",
        "Take the checkpoint with the lowest held-out loss; train less, or on more rows.",
        learning.held_out_follows,
    ),
    RunRule(
        "Held-out answers stay right",
        "eval_accuracy of --eval_prompts",
        "fewer right than at the first look, beyond chance (paired by question, 5 % over all looks)",
        "The model answers worse than before training, however healthy the curves of the trained rows look.",
        "Take a checkpoint from before the fall; lower --learning_rate, raise --rpo_alpha, use more questions.",
        held_out.answers_stay_right,
    ),
    RunRule(
        "Right held-out answers hold against wrong ones",
        "eval_logps/right_change, eval_logps/wrong_change, rewards/accuracies",
        "the gap between right and wrong answers of the first look closes, beyond chance",
        "Rewards rise on the trained pairs while held-out right answers lose likelihood: accuracy will follow.",
        "Check that chosen and rejected are the right way round and differ in what matters; lower --learning_rate.",
        held_out.right_hold,
    ),
    RunRule(
        "Rows come a few times",
        "epoch",
        "more than 10 epochs",
        "Too little data for this many steps: each row is learned by heart.",
        "Lower --max_steps or --num_train_epochs, or make more pairs.",
        surroundings.few_epochs,
    ),
    RunRule(
        "Rows can be used",
        "ledger.json, skipped_rows",
        "over 5 % skipped (or half of --max_skipped_share), or books that do not add up",
        "What is skipped is not learned from, and what is left may be another mixture than was asked for.",
        "See the reasons below; python tools/validate.py names every row.",
        surroundings.rows_used,
    ),
    RunRule(
        "Throughput holds",
        "tokens_per_second",
        "the end at a quarter of the begin",
        "Longer rows, a slow disk, memory that swaps, or other jobs on this machine.",
        "Look at the machine; raise --dataloader_num_workers.",
        surroundings.speed_holds,
    ),
    RunRule(
        "Memory holds",
        "peak_memory_gib",
        "the end at 1.5 times the level after a quarter of the run",
        "Memory that keeps growing ends a long run.",
        "Look for what is kept from step to step; lower --dataloader_num_workers.",
        surroundings.memory_holds,
    ),
)


def judge_run(run: Evidence, rules: Sequence[RunRule] = RULES) -> list[RuleOutcome]:
    """What each rule finds in a run, faults first; rules without anything to look at are left out."""
    found = [(rule, rule.judge(run)) for rule in rules]
    views = [RuleOutcome(rule, judged.value, judged.sign) for rule, judged in found if judged is not None]
    return sorted(views, key=lambda view: view.sign is not Sign.FAULT)
