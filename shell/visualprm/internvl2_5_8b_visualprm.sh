#!/bin/sh
# VisualPRM: a critic of steps from InternVL2.5-8B, by the settings of arXiv 2602.04145. Flags that follow win.
export GPUS="${GPUS:-8}" BATCH_SIZE="${BATCH_SIZE:-512}"
exec bash "$(dirname "$0")/../launch.sh" internvl_chat.train_mpo --loss_type prm \
    --model_name_or_path ckpt/InternVL2_5-8B \
    --output_dir work_dirs/visualprm/$(basename "$0" .sh) \
    --meta_path pairs/visualprm/prm_meta.json --max_seq_length 8192 --max_dynamic_patch 6 --learning_rate 1e-5 \
    --warmup_ratio 0.05 --freeze_backbone True --group_by prompt --deepspeed zero_stage3_config.json "$@"
