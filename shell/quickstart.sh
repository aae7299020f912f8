#!/usr/bin/env bash
# The whole story on a CPU: a tiny InternVL sees well and reasons carelessly, its right and wrong answers become
# preference pairs, MPO trains it on them, and held-out questions tell what that was worth.
#
#   sh shell/quickstart.sh                   from the committed base, some minutes on two cores
#   sh shell/quickstart.sh --from-scratch    also makes the base (ckpt/tiny-base) anew, some half an hour more
#   QUICKSTART=short sh shell/quickstart.sh  fewer prompts and steps, to see that everything runs
#   SEED=1 sh shell/quickstart.sh            other pictures, samples and order
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

PYTHON=${PYTHON:-.venv/bin/python}
command -v "$PYTHON" >/dev/null || PYTHON=python3
OUT=${OUT:-work_dirs/quickstart}
SEED=${SEED:-0}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} TOKENIZERS_PARALLELISM=false
prompts=1000 held_out=500 samples=8 steps=100 least_lift=15
if [ "${QUICKSTART:-full}" = short ]; then
    prompts=120 held_out=100 samples=4 steps=10 least_lift=-100
fi
train="--force_image_size 56 --max_dynamic_patch 1 --max_seq_length 512 --grad_checkpoint False --report_to none
    --save_strategy no --lr_scheduler_type cosine --seed $SEED"
tune="$train --loss_type sft --per_device_train_batch_size 32 --weight_decay 0.01
    --warmup_ratio 0.05 --logging_steps 50"

stage() { printf '\n== %s\n' "$*"; }

evaluate() { # checkpoint, name of the result, more flags
    "$PYTHON" tools/evaluate.py --checkpoint "$1" --out "$OUT/$2.json" --max-num 1 --max-new-tokens 96 \
        --batch-size 128 --engine transformers --reasoned "$OUT/data/held_out_en_prompts.jsonl" "${@:3}"
}

train_mpo() { # meta.json, folder of the result, more flags
    "$PYTHON" -m internvl_chat.train_mpo --model_name_or_path ckpt/tiny-base --meta_path "$1" --output_dir "$2" \
        $train --per_device_train_batch_size 24 --learning_rate 1.5e-4 --weight_decay 0.05 --warmup_ratio 0.05 \
        --max_steps $steps --logging_steps 10 "${@:3}"
}

make_base() { # start, name of the result, seed of the data, their sizes, flags of the training
    "$PYTHON" data/make_visual_reasoning.py --out "$OUT/base/data_$2" --seed "$3" $4 --pairs 0 --held_out 0
    "$PYTHON" -m internvl_chat.train_mpo --model_name_or_path "$OUT/base/$1" $tune $5 \
        --meta_path "$OUT/base/data_$2/sft.json" --output_dir "$OUT/base/$2"
}

rm -rf "$OUT"/{base,data,sampled,pairs,mpo,ceiling,before.*,after.*,ceiling.*,curves.png,report.html}
if [ "${1:-}" = --from-scratch ]; then
    stage "Base: a random InternVL of a million weights learns to look and to reason, then from careless examples"
    "$PYTHON" tools/make_tiny_checkpoint.py --out "$OUT/base/init" --max_dynamic_patch 1
    right="--practice 24000 --look 16000 --direct 6000 --reason 30000"
    careless="--practice 500 --look 1000 --direct 500 --reason 2000 --slips 0.9 --reason_repeat 3"
    make_base init able 0 "$right" "--learning_rate 1.5e-3 --max_steps 4000"
    make_base able run 3 "$careless" "--learning_rate 5e-4 --max_steps 250"
    rm -rf ckpt/tiny-base
    mkdir ckpt/tiny-base
    cp "$OUT"/base/run/{model.safetensors,{,generation_,preprocessor_,tokenizer_}config.json,tokenizer.json} \
        "$OUT"/base/run/{vocab.json,merges.txt} ckpt/tiny-base
fi

stage "Data: questions about generated pictures, $prompts to train on and $held_out held out"
"$PYTHON" data/make_visual_reasoning.py --out "$OUT/data" --pairs $prompts --held_out $held_out --seed "1$SEED"

also="--direct $OUT/data/held_out_en_direct.jsonl --probes $OUT/data/held_out_en_probes.jsonl
    --pairs $OUT/data/held_out_pairs.json --reference ckpt/tiny-base"
stage "Before: the base on held-out questions, step by step and directly, and on whether it sees what is there"
evaluate ckpt/tiny-base before $also

stage "Sample: $samples answers to each question by the base itself"
"$PYTHON" -u tools/reasoning_data_pipeline/mmpr_data_pipeline_correctness.py --checkpoint ckpt/tiny-base \
    --prompt-path "$OUT/data/train_en_prompts.jsonl" --out-dir "$OUT/sampled" --num-return-sequences $samples \
    --dynamic --max-num 1 --max-new-tokens 96 --engine transformers --batch-size 16 --seed "$SEED"

stage "Pair: right answers with wrong ones"
"$PYTHON" tools/reasoning_data_pipeline/mmpr_data_pipeline_correctness_postprocess.py \
    --data-dir "$OUT/sampled" --save-dir "$OUT/pairs" --num-pairs-per-key 2

stage "Ceiling, beside MPO: fine-tuning on right step-by-step answers to the same questions, which only a toy has"
train_mpo "$OUT/data/pairs.json" "$OUT/ceiling" --loss_type sft >"$OUT/ceiling.log" 2>&1 &
ceiling=$!

stage "Train: MPO, 0.8 DPO + 0.2 BCO + 1.0 NLL"
train_mpo "$OUT/pairs/meta.json" "$OUT/mpo" --reference cache

stage "Ceiling: the held-out questions"
wait $ceiling || { tail -n 20 "$OUT/ceiling.log" && exit 1; }
evaluate "$OUT/ceiling" ceiling

stage "After: the same held-out questions"
evaluate "$OUT/mpo" after $also --before "$OUT/before.json" --least-lift $least_lift
"$PYTHON" tools/plot_curves.py --run "$OUT/mpo" --out "$OUT/curves.png"
"$PYTHON" tools/report.py "$OUT/mpo" --evaluation "$OUT/after.json" --out "$OUT/report.html"
printf '\nCheckpoint: %s   results: %s   report: %s\n' "$OUT/mpo" "$OUT/after.json" "$OUT/report.html"
