#!/usr/bin/env bash
# Rejected answers by DropoutNTP for the rows of PROMPTS: the start of the chosen one, continued without the image.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"
export GPUS=${GPUS:-8}
[ -n "${PROMPTS:-}" ] || { echo "dropout_ntp.sh: PROMPTS is empty: name the JSONL files with chosen answers" >&2; exit 2; }
read -ra files <<<"$PROMPTS"
exec bash "$(dirname "$0")/../launch.sh" tools.reasoning_data_pipeline.mmpr_data_pipeline_dropout_ntp \
    --checkpoint "${CHECKPOINT:-ckpt/InternVL2_5-8B}" --prompt-path "${files[@]}" --out-dir sampled/dropout_ntp \
    --dynamic --max-num 6 --num-return-sequences 1 --sample-max-num 500000 --start-ratio "${START_RATIO:-0.5}" "$@"
