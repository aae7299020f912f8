#!/bin/sh
# MPO of InternVL3.5-GPT-OSS-20B-A4B: InternViT-300M and gpt-oss-20b. Flags that follow win.
export GPUS="${GPUS:-256}" BATCH_SIZE="${BATCH_SIZE:-256}"
exec bash "$(dirname "$0")/../../launch.sh" internvl_chat.train_mpo \
    --model_name_or_path ckpt/InternVL3_5-GPT-OSS-20B-A4B-Preview \
    --output_dir work_dirs/internvl3.5_mpo/$(basename "$0" .sh) \
    --meta_path MMPR-v1.2/meta.json --max_seq_length 16384 --learning_rate 2e-7 \
    --deepspeed zero_stage3_config.json --drop_path_rate 0.1 "$@"
