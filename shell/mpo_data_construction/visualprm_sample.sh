#!/usr/bin/env bash
# Answers in steps to the prompts of PROMPTS, each step scored by 16 continuations.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"
export GPUS=${GPUS:-8}
[ -n "${PROMPTS:-}" ] || { echo "visualprm_sample.sh: PROMPTS is empty: name the JSONL files with prompts" >&2; exit 2; }
read -ra files <<<"$PROMPTS"
exec bash "$(dirname "$0")/../launch.sh" tools.reasoning_data_pipeline.visualprm_data_pipeline \
    --checkpoint "${CHECKPOINT:-ckpt/InternVL2_5-8B}" --prompt-path "${files[@]}" --out-dir sampled/visualprm \
    --dynamic --max-num 12 --num-mc-sequences 16 --max-steps 12 "$@"
