#!/usr/bin/env bash
# Sample answers to prompts with known answers, each data set at its limit of max_tiles.txt, one launch per limit.
# PROMPTS names the files, CHECKPOINT the model, TP the GPUs of one engine. Flags that follow win.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"
set -euo pipefail
cd "$(dirname "$0")/../.."
export GPUS=${GPUS:-8}

tile_limit() { # prompt file
    local limit prefixes prefix
    while read -r limit prefixes; do
        for prefix in $prefixes; do
            [[ $(basename "$1") != "$prefix"* ]] || { echo "$limit" && return; }
        done
    done < <(grep -v '^#' shell/mpo_data_construction/max_tiles.txt)
    echo 6
}

for tiles in 1 6 12 18 24; do
    files=()
    for file in ${PROMPTS:-MMPR-v1.2-prompts/correctness_prompts/*.jsonl}; do
        [[ $(tile_limit "$file") != "$tiles" ]] || files+=("$file")
    done
    ((${#files[@]} == 0)) || bash shell/launch.sh tools.reasoning_data_pipeline.mmpr_data_pipeline_correctness \
        --checkpoint "${CHECKPOINT:-ckpt/InternVL2_5-8B}" --prompt-path "${files[@]}" --out-dir sampled/correctness \
        --dynamic --max-num "$tiles" --num-return-sequences 32 --sample-max-num 20000 "$@"
done
