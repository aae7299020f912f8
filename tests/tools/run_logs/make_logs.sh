#!/usr/bin/env bash
# Makes the logs of this folder anew: real trainings of ckpt/tiny-base, healthy ones and ones with a fault planted in
# their flags or data. Faults that no flag brings about are planted in these logs by test_run_rules.py.
#
#   bash tests/tools/run_logs/make_logs.sh [work_dirs/run_logs]     half an hour on two cores
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../../.."
PYTHON=${PYTHON:-.venv/bin/python} OUT=${1:-work_dirs/run_logs} HERE=tests/tools/run_logs
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} TOKENIZERS_PARALLELISM=false

pairs() { # folder, prompts, seed: pairs of the base's own answers, as the quickstart makes them
    [ -f "$1/pairs/meta.json" ] && return
    "$PYTHON" data/make_visual_reasoning.py --out "$1/data" --pairs "$2" --held_out 100 --seed "$3"
    "$PYTHON" -u tools/reasoning_data_pipeline/mmpr_data_pipeline_correctness.py --checkpoint ckpt/tiny-base \
        --prompt-path "$1/data/train_en_prompts.jsonl" --out-dir "$1/sampled" --num-return-sequences 8 \
        --dynamic --max-num 1 --max-new-tokens 96 --engine transformers --batch-size 16
    "$PYTHON" tools/reasoning_data_pipeline/mmpr_data_pipeline_correctness_postprocess.py \
        --data-dir "$1/sampled" --save-dir "$1/pairs" --num-pairs-per-key 2
}

train() { # name, more flags
    [ -f "$OUT/$1/train_results.json" ] || "$PYTHON" -m internvl_chat.train_mpo --model_name_or_path ckpt/tiny-base \
        --meta_path "$OUT/pairs/meta.json" --output_dir "$OUT/$1" --force_image_size 56 --max_dynamic_patch 1 \
        --max_seq_length 512 --grad_checkpoint False --report_to none --save_strategy no --lr_scheduler_type cosine \
        --per_device_train_batch_size 24 --learning_rate 5e-4 --weight_decay 0.05 --warmup_ratio 0.05 --max_steps 200 \
        --logging_steps 10 --reference cache "${@:2}" || true
    "$PYTHON" "$HERE/keep_log.py" "$OUT/$1" "$HERE/$1.json"
}

pairs "$OUT" 1600 10
pairs "$OUT/few" 40 77
for seed in 0 1 2; do train healthy_$seed --seed $seed; done
train healthy_small_batches --logging_steps 1 --per_device_train_batch_size 4 --max_steps 150 --learning_rate 2e-4
if [ ! -f "$OUT/photos/meta.json" ]; then
    "$PYTHON" -m pip download --quiet scikit-image==0.26.0 --no-deps -d "$OUT/wheels"
    unzip -qoj "$OUT"/wheels/scikit_image*.whl "skimage/data/*" -d "$OUT/wheels/photos"
    "$PYTHON" "$HERE/make_photos.py" "$OUT/wheels/photos" "$OUT/photos"
fi
train photos_lora --meta_path "$OUT/photos/meta.json" --use_llm_lora 8 --max_dynamic_patch 2 --logging_steps 2 \
    --max_steps 60 --per_device_train_batch_size 4 --learning_rate 1e-3 --reference adapter
train fault_rate_zero --learning_rate 0 --max_steps 60 --logging_steps 2
train fault_no_learning --learning_rate 1e-9 --max_steps 60 --logging_steps 2
train fault_rate_too_high --learning_rate 0.05 --max_steps 60 --logging_steps 2
train fault_collapse --loss_type sigmoid --rpo_alpha 0 --learning_rate 2e-3
train fault_overfit --meta_path "$OUT/few/pairs/meta.json" --eval_meta_path "$OUT/pairs/meta.json" --eval_strategy steps \
    --eval_steps 40 --per_device_eval_batch_size 64 --learning_rate 2e-3 --max_steps 240 --logging_steps 8
