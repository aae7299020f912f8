"""Our own flags of training as plain dataclasses: names, defaults, sentences. No torch: `--help` has them at once.

`arguments.MPOConfig` adds transformers' own to `PreferenceFlags` and checks them; those of the data stand in
`data/arguments.py`. `training_help.GROUPS` says under which heading `--help` prints a flag.
"""

from __future__ import annotations

from dataclasses import dataclass

from internvl_chat.data.arguments import described


@dataclass
class ModelArguments:
    """Which checkpoint, and which of its parts are trained."""

    model_name_or_path: str = described("", "Checkpoint in the published InternVL2.5 layout: a folder or a hub name.")
    attn_implementation: str = described("sdpa", "sdpa, eager or flash_attention_2, by transformers' names.")
    freeze_llm: bool = described(False, "Do not train the language model.")
    freeze_backbone: bool = described(False, "Do not train the vision tower.")
    freeze_mlp: bool = described(False, "Do not train the projector between them.")
    unfreeze_vit_layers: int = described(0, "With --freeze_backbone: train that many last layers of the vision tower.")
    vision_select_layer: int = described(-1, "Layer of the vision tower whose output the projector reads.")
    drop_path_rate: float = described(0.0, "Stochastic depth of the vision tower, 0 to 1; the reference has none.")
    ps_version: str = described("v2", "Pixel shuffle of the checkpoint: v2, or v1 for the oldest models.")
    use_backbone_lora: int = described(0, "Rank of LoRA adapters in the vision tower; 0 is none.")
    use_llm_lora: int = described(0, "Rank of LoRA adapters in the language model; all other weights are frozen.")
    load_in_4bit: bool = described(False, "QLoRA: the frozen language model in 4 bits (NF4), by bitsandbytes.")

    def __post_init__(self) -> None:
        """Check what needs no file.

        Raises:
            ValueError: a missing checkpoint, or a value out of its range.
        """
        if not self.model_name_or_path:
            raise ValueError("--model_name_or_path is empty: name a checkpoint folder such as ckpt/InternVL2_5-8B")
        if not 0 <= self.drop_path_rate < 1:
            raise ValueError(f"--drop_path_rate {self.drop_path_rate} is not in [0, 1)")
        if min(self.use_backbone_lora, self.use_llm_lora) < 0:
            ranks = f"--use_backbone_lora {self.use_backbone_lora} --use_llm_lora {self.use_llm_lora}"
            raise ValueError(f"{ranks}: ranks are at least 1, or 0 for full training")
        if self.load_in_4bit and not self.has_adapters:
            raise ValueError("--load_in_4bit True needs adapters: set --use_llm_lora to a rank such as 64")

    @property
    def has_adapters(self) -> bool:
        """Whether adapters are trained, and nothing else."""
        return bool(self.use_backbone_lora or self.use_llm_lora)


@dataclass
class PreferenceFlags:
    """How to train on preferences (arXiv 2411.10442, section 3); what transformers names otherwise or not at all."""

    loss_type: str = described(
        "sigmoid,bco_pair", "Preference losses joined by commas; `sft` for fine-tuning; `prm` for a critic of steps."
    )
    sigmoid_loss_weight: float | None = described(None, "Weight of the sigmoid loss in a mixture, 0.8 unless given.")
    bco_pair_loss_weight: float | None = described(None, "Weight of the BCO loss in a mixture, 0.2 unless given.")
    loss_weights: str | None = described(None, "Weights of all losses of --loss_type in its order, joined by commas.")
    rpo_alpha: float | None = described(None, "Weight of the NLL of chosen answers; 1 in a mixture, else 0.")
    nll_mode: str = described("token", "NLL mean over the micro-batch's chosen `token`s, or per `pair` first (paper).")
    beta: float = described(0.1, "Strength of the tie to the reference, > 0.")
    label_smoothing: float = described(0.0, "Share of pairs whose order is taken as wrong, in [0, 0.5).")
    step_targets: str = described(
        "labels", "Of prm: learn the `labels` of steps, 0 or 1, or their Monte-Carlo `scores`."
    )
    step_thresholds: str | None = described(
        None,
        "Of prm: a score above which a step is right, or two joined by a comma: wrong up to the first, right from the "
        "second on, no loss between. Default: the + and - of the rows.",
    )
    step_layout: str = described(
        "turns",
        "Of prm: a step is a user's turn, judged in the answer to it (`turns`, as VisualPRM), or stays in the `answer` "
        "as a model gave it and is judged at its last token.",
    )
    step_context: str = described(
        "right",
        "Of prm: what stands in the answers before a step: `right`, all are +, as in scoring; `judgements`, those of "
        "the row, as VisualPRM's data were made for.",
    )
    step_loss: str = described(
        "vocabulary",
        "Of prm: next-token loss over the whole `vocabulary`, as VisualPRM's, or over the two `words` + and - alone.",
    )
    balance_steps: bool = described(False, "Of prm: let right and wrong steps weigh the same in the loss.")
    reference: str | None = described(
        None,
        "Reference log-probs: `model`, a second one in memory; `cache`, on disk; `adapter`, the policy with its LoRA "
        "adapters off. Default: adapter with LoRA, else model.",
    )
    save_adapter_only: bool = described(False, "With LoRA: save the adapter alone; tools/merge_lora.py merges it.")
    reference_cache_dir: str | None = described(None, "Root of the caches; reference_cache beside --output_dir.")
    group_by: str = described(
        "none",
        "Put pairs that share a `prompt` or an `image` into one micro-batch, which then runs it once: as far as no "
        "rank waits for that, and not at all where the log says that it gains nothing.",
    )
    group_prompts: bool = described(False, "Older name of --group_by prompt.")
    tokens_per_device: int = described(
        0,
        "Most packed tokens of a micro-batch, images and text: decides how many a step has, in place of "
        "--gradient_accumulation_steps, which still counts for the pairs of a step; 0 for no limit.",
    )
    sequence_parallel_size: int = described(
        1, "Ranks that share the rows of a batch, so that longer ones fit; divides ranks and attention heads."
    )
    balance_ranks: bool = described(
        False, "Assign the pairs of a step to ranks by their cost; reads the headers of all images first."
    )
    sync_ref_model: bool = described(False, "TR-DPO: move the reference towards the policy (arXiv 2404.09656).")
    ref_model_mixup_alpha: float = described(0.6, "TR-DPO: share of the policy in the new reference.")
    ref_model_sync_steps: int = described(512, "TR-DPO: steps between two moves.")

    max_skipped_share: float = described(0.1, "Stop when more than this share of the rows cannot be used, 0 to 1.")
    on_non_finite: str = described("stop", "A step whose loss or gradient is not finite: `stop` the run, or `skip` it.")
    eval_prompts: str | None = described(
        None,
        "Held-out prompts (JSONL of image, question, answer) that the policy answers before the first step, every "
        "--eval_steps optimizer steps and at the end; answers that get worse beyond chance stop the run.",
    )
    eval_questions: int = described(128, "Questions of --eval_prompts that are asked, the same ones every time.")
    eval_samples: int = described(0, "Answers to each: 0 for the most likely one, else so many at temperature 1.")
    eval_prompt_version: str = described("en", "How they are put: a prompt version, or `direct` for as they stand.")
    eval_max_new_tokens: int = described(1024, "Cut answers to --eval_prompts here.")
    eval_image_root: str | None = described(None, "Folder of the images of --eval_prompts.")
    on_fall: str = described("stop", "Where these answers get worse beyond chance: `stop` the run, or `warn`.")
    watchdog_seconds: float = described(
        300.0, "Write all stacks to a file when a step takes longer than this and 10 times the usual; 0 for never."
    )

    do_train: bool = described(True, "Train; False is refused with the command that evaluates instead.")
    evaluation_strategy: str | None = described(None, "Older name of --eval_strategy.")
    warmup_ratio: float | None = described(None, "Share of all steps with a rising learning rate.")
    group_by_length: bool = described(False, "Batches of rows of like length.")
    offload_activations: bool = described(
        False, "With --grad_checkpoint: what layers keep for the backward pass waits in the host's memory."
    )
    grad_checkpoint: str | None = described(
        None, "Compute layers again in the backward pass: True, False, or auto: those for which memory is short."
    )
    overwrite_output_dir: bool = described(False, "Start anew although --output_dir holds checkpoints.")
    use_liger: bool = described(False, "Accepted; log-probs are computed in chunks without Liger already.")

    deepspeed: dict | str | None = described(None, "DeepSpeed configuration, or the name of one of shell/deepspeed.")
    fsdp: str | None = described(None, "True shards weights over ranks by FSDP2; --fsdp_config says more.")
    ddp_backend: str | None = described(None, "nccl or gloo; gloo where there is no GPU.")
    logging_steps: float = described(
        10,
        "Steps between lines of the log; the last step has one in any case. The launchers set 1.",
    )
    remove_unused_columns: bool = described(False, "Rows carry what the collator needs: keep it False.")
    logging_nan_inf_filter: bool = described(False, "A loss that is not finite stops the run instead of showing as 0.")
    dataloader_pin_memory: bool = described(True, "Pinned host memory, where there is a GPU.")
