#!/usr/bin/env bash
# The whole story on a CPU: a tiny InternVL answers questions about pictures, its right and wrong answers become
# preference pairs, MPO trains it on them, and held-out questions tell what that was worth.
#
#   sh shell/quickstart.sh                   from the committed base, some minutes on two cores
#   sh shell/quickstart.sh --from-scratch    also makes the base (ckpt/tiny-base) again, some ten minutes more
#   QUICKSTART=short sh shell/quickstart.sh  fewer prompts and steps, to see that everything runs
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

PYTHON=${PYTHON:-.venv/bin/python}
command -v "$PYTHON" >/dev/null || PYTHON=python3
OUT=${OUT:-work_dirs/quickstart}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-2} TOKENIZERS_PARALLELISM=false
prompts=1600 held_out=400 samples=8 steps=450 least_lift=2
if [ "${QUICKSTART:-full}" = short ]; then
    prompts=240 held_out=100 samples=4 steps=20 least_lift=-100
fi
world="--tasks count compare --held_out $held_out"
train="--force_image_size 56 --max_dynamic_patch 3 --max_seq_length 512 --grad_checkpoint False --report_to none"

stage() { printf '\n== %s\n' "$*"; }

evaluate() { # checkpoint, name of the result, more flags
    "$PYTHON" tools/evaluate.py --checkpoint "$1" --out "$OUT/$2.json" --max-num 3 --max-new-tokens 128 \
        --reasoned "$OUT"/data/held_out_{en,zh}_prompts.jsonl --temperature 1 --samples 4 \
        --pairs "$OUT/data/held_out_pairs.json" --reference ckpt/tiny-base "${@:3}"
}

rm -rf "$OUT"/{base,data,sampled,pairs,mpo,before.json,after.json,curves.png}
if [ "${1:-}" = --from-scratch ]; then
    stage "Base: a random InternVL of a million weights learns to look, and to reason as carelessly as its examples"
    rm -rf ckpt/tiny-base
    "$PYTHON" data/make_visual_reasoning.py --out "$OUT/base/data" --sft 16000 --slips 0.5 --pairs 0 $world
    "$PYTHON" tools/make_tiny_checkpoint.py --out "$OUT/base/init" --max_dynamic_patch 3
    "$PYTHON" -m internvl_chat.train_mpo --loss_type sft --model_name_or_path "$OUT/base/init" $train \
        --meta_path "$OUT/base/data/sft.json" --output_dir "$OUT/base/run" --per_device_train_batch_size 32 \
        --learning_rate 3e-3 --weight_decay 0.01 --warmup_ratio 0.03 --lr_scheduler_type cosine --max_steps 1200 \
        --logging_steps 50 --save_strategy no
    cp -r "$OUT/base/run" ckpt/tiny-base
    rm -rf ckpt/tiny-base/{runs,*results.json,trainer_state.json,*.py}
fi

stage "Data: questions about generated pictures, $prompts to train on and $held_out held out"
"$PYTHON" data/make_visual_reasoning.py --out "$OUT/data" --pairs $prompts $world

stage "Before: the base on held-out questions"
evaluate ckpt/tiny-base before

stage "Sample: $samples answers to each question by the base itself"
"$PYTHON" -u tools/reasoning_data_pipeline/mmpr_data_pipeline_correctness.py --checkpoint ckpt/tiny-base \
    --prompt-path "$OUT"/data/train_{en,zh}_prompts.jsonl --out-dir "$OUT/sampled" --num-return-sequences $samples \
    --dynamic --max-num 3 --max-new-tokens 128 --engine transformers

stage "Pair: right answers with wrong ones"
"$PYTHON" tools/reasoning_data_pipeline/mmpr_data_pipeline_correctness_postprocess.py \
    --data-dir "$OUT/sampled" --save-dir "$OUT/pairs" --num-pairs-per-key 4

stage "Train: MPO, 0.8 DPO + 0.2 BCO + 1.0 NLL"
"$PYTHON" -m internvl_chat.train_mpo --model_name_or_path ckpt/tiny-base --meta_path "$OUT/pairs/meta.json" $train \
    --output_dir "$OUT/mpo" --reference cache --per_device_train_batch_size 24 --learning_rate 3e-4 \
    --weight_decay 0.05 --warmup_ratio 0.05 --lr_scheduler_type cosine --max_steps $steps --logging_steps 10 \
    --save_strategy no

stage "After: the same held-out questions"
evaluate "$OUT/mpo" after --before "$OUT/before.json" --least-lift $least_lift
"$PYTHON" tools/plot_curves.py --run "$OUT/mpo" --out "$OUT/curves.png"
printf '\nCheckpoint: %s   results: %s   curves: %s\n' "$OUT/mpo" "$OUT/after.json" "$OUT/curves.png"
