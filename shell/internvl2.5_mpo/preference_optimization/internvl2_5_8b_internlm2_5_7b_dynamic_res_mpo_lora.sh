#!/bin/sh
# MPO of InternVL2.5-8B by adapters on one node; their rank and rate are ours, not published. Flags that follow win.
export GPUS="${GPUS:-8}" BATCH_SIZE="${BATCH_SIZE:-256}"
exec sh "$(dirname "$0")/internvl2_5_8b_internlm2_5_7b_dynamic_res_mpo.sh" \
    --output_dir "work_dirs/internvl2.5_mpo/$(basename "$0" .sh)" --use_llm_lora 16 --use_backbone_lora 16 --learning_rate 1e-5 "$@"
