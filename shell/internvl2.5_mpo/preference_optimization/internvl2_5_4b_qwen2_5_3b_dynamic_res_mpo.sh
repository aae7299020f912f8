#!/bin/sh
# MPO of InternVL2.5-4B: InternViT-300M and Qwen2.5-3B. Flags that follow win.
export GPUS="${GPUS:-256}" BATCH_SIZE="${BATCH_SIZE:-256}"
exec bash "$(dirname "$0")/../../launch.sh" internvl_chat.train_mpo \
    --model_name_or_path ckpt/InternVL2_5-4B \
    --output_dir work_dirs/internvl2.5_mpo/$(basename "$0" .sh) \
    --meta_path MMPR-v1.1/meta.json --max_seq_length 8192 --learning_rate 1e-6 \
    --deepspeed zero_stage1_config.json --drop_path_rate 0.1 "$@"
