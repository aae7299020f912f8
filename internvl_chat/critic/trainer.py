"""StepTrainer: `MultimodalDPOTrainer` on judged conversations, without a reference.

A step is: packed conversations -> log p of `+` and `-` where a step was measured (`packing`) -> cross-entropy
(`losses.steps`) -> metrics. Losses divide by the steps of the whole optimizer step over all ranks, so a step of an
answer weighs the same wherever it lands.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

import torch

from internvl_chat.critic.dataset import JudgedDataset
from internvl_chat.critic.packing import collate_steps, judgement_logps, right_probability
from internvl_chat.losses.steps import (
    among_words,
    balanced_weights,
    confusion,
    judgement_losses,
    judgement_scores,
    step_weights,
)
from internvl_chat.model import InternVLChatModel
from internvl_chat.run.trainer import MultimodalDPOTrainer

logger = logging.getLogger(__name__)


class StepTrainer(MultimodalDPOTrainer):
    """Trains a critic (VisualPRM, arXiv 2503.10291).

    Attributes:
        weights: of a right and of a wrong step.
    """

    def __init__(self, model: InternVLChatModel, *args: Any, train_dataset: JudgedDataset, **kwargs: Any) -> None:
        """Prepare a critic; arguments as of `MultimodalDPOTrainer`, `ref_model` None."""
        collate = partial(collate_steps, image_token_id=model.img_context_token_id, words=train_dataset.steps.words)
        kwargs.setdefault("data_collator", collate)
        super().__init__(model, *args, train_dataset=train_dataset, **kwargs)
        right, wrong = self._say_balance(train_dataset)
        self.weights = balanced_weights(right, wrong) if self.args.balance_steps else (1.0, 1.0)
        if self.args.balance_steps:
            logger.info("a right step weighs %.3f, a wrong one %.3f", *self.weights)

    def _say_balance(self, dataset: JudgedDataset) -> tuple[int, int]:
        """Log how many steps of each data set are right, wrong and unmeasured; how many are right and wrong in all."""
        counts = dataset.count_steps(self.rank, self.world_size)
        for name, (right, wrong, unmeasured, rows) in counts.items():
            share = 100 * wrong / max(1, right + wrong)
            told = f"{right:,} right, {wrong:,} wrong ({share:.1f} % of these), {unmeasured:,} without loss"
            told += f"; of {rows:,} row{'s' if rows > 1 else ''} none has any" if rows else ""
            logger.info("steps of %s: %s", name, told)
        right, wrong = (int(sum(of_set[kind] for of_set in counts.values())) for kind in (0, 1))
        if not right or not wrong:
            missing = "right" if wrong else "wrong"
            logger.warning("no step of this data is %s: a critic cannot learn to tell it", missing)
        return right, wrong

    def _loss_of(
        self, model: torch.nn.Module, inputs: dict[str, Any], of_step: torch.Tensor | None
    ) -> tuple[torch.Tensor, Any]:
        """As in `MultimodalDPOTrainer`; the weight is that of judged steps, whose losses (J,) are returned."""
        pack = inputs["packed"]
        self._recompute_by_need(model, inputs, len(pack.word_positions))
        logps = judgement_logps(model, inputs)
        if self.args.step_loss == "words":
            logps = among_words(logps)
        weights = step_weights(pack.right, self.weights)
        losses = judgement_losses(logps, pack.targets) * weights
        mean = losses.sum() / weights.sum()
        if model.training:
            self.guard.add_parts({"loss": mean.detach()}, inputs["row_ids"])
        if self.counts_rows:
            metrics = {name: value.double() for name, value in confusion(logps.detach(), pack.right).items()}
            metrics["p_right"] = right_probability(logps.detach().double()).sum()
            if not model.training:
                metrics["loss"] = losses.detach().double().sum()
            self.sums["train" if model.training else "eval"].add(metrics, len(losses), pack.input_ids.numel())
        loss = mean
        if of_step is not None:  # the mean over ranks that follows takes num_processes out again
            loss = losses.sum() * (self.accelerator.num_processes / of_step)
        return loss, losses.detach()

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> torch.Tensor:
        """Weight of the steps of an optimizer step over all ranks; 1 where there is none."""
        judged = [batch["packed"].right for batch in batch_samples if "packed" in batch]
        count = torch.zeros((), device=device)
        for right in judged:
            count = count + step_weights(right.to(device), self.weights).sum()
        if self.accelerator.num_processes > 1:
            count = self.accelerator.reduce(count, reduction="sum")
        return torch.where(count > 0, count, 1.0)

    def read_metrics(self, kind: str) -> dict[str, float]:
        """As in `MultimodalDPOTrainer`, of steps: their accuracy and F1, the share that is right, the mean score."""
        metrics = super().read_metrics(kind)
        names = [name for name in metrics if " as " in name]
        if not names:
            return metrics
        shares = {name: metrics.pop(name) for name in names}
        metrics["steps_per_second"] = metrics.pop("pairs_per_second")
        metrics["steps/right"] = shares["right as right"] + shares["right as wrong"]
        metrics["steps/p_right"] = metrics.pop("p_right")
        return {**judgement_scores(shares), **metrics}
