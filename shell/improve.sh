#!/usr/bin/env bash
# From prompts to proof: answers are sampled, checked and paired, the pairs validated and trained on, held-out questions
# asked before and after. It ends with a report and the verdict of a paired test.
#
#   bash shell/improve.sh CHECKPOINT PROMPTS... [--rounds N] [--held-out FILE]... [--image-root DIR] [--out DIR] \
#       [--critic CKPT]
#
#   PROMPTS         files of {"image", "question", "answer"}; a tenth is held out by a stable hash (SHARE=0.1)
#   --held-out      questions to evaluate on instead; prompts about the same pictures are not trained on
#   --rounds        each further round samples from the last checkpoint
#   --critic        checkpoint of a process reward model: of each question, the right answers that it scores highest are
#                   chosen and the wrong ones that it scores lowest rejected, in place of pairs drawn evenly
#   --out           default work_dirs/improve: questions/, before.json, and round_<k>/ with checkpoint/ and report.html
#
# Environment: that of launch.sh (LAUNCHER, GPUS, BATCH_SIZE, ...), TP (GPUs of one engine), and more flags for stages:
# SAMPLE, SCORE, PAIR, DATA (validation and training), TRAIN, EVALUATE, such as TRAIN="--learning_rate 5e-7". Rows that
# cannot be trained on are skipped, a tenth of all at most: TRAIN="--max_skipped_share 0.01" is stricter.
# A run that was stopped, at any point, goes on when the same command starts again: what is complete is skipped, and
# sampling and training go on where they were. PATIENCE=60: seconds for processes of a killed run to end. DRY_RUN=1
# prints the commands.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

die() {
    echo "improve.sh: $*" >&2
    exit 2
}

needs() { # what, flag, value, ...
    [[ -n ${3:-} ]] || die "$2 needs $1"
}

rounds=1 out=work_dirs/improve critic="" words=() held_out=() image_root=()
while (($#)); do
    case $1 in
    --rounds) needs "a number" "$@" && rounds=$2 && shift ;;
    --critic) needs "a checkpoint" "$@" && critic=$2 && shift ;;
    --out) needs "a folder" "$@" && out=$2 && shift ;;
    --held-out) needs "a file" "$@" && held_out+=("$2") && shift ;;
    --image-root) needs "a folder" "$@" && image_root=(--image-root "$2") && shift ;;
    -*) die "$1 is unknown; the head of this file tells what there is" ;;
    *) words+=("$1") ;;
    esac
    shift
done
((${#words[@]} > 1)) || die "name a checkpoint and a prompt file: bash shell/improve.sh CHECKPOINT PROMPTS..."
[[ $rounds =~ ^[1-9][0-9]*$ ]] || die "--rounds $rounds is not a whole number of at least 1"
first=${words[0]} prompts=("${words[@]:1}") tp=${TP:-1}
default_python=python
[[ ! -x .venv/bin/python ]] || default_python=.venv/bin/python
export PYTHON=${PYTHON:-$default_python}
read -ra sample <<<"${SAMPLE:-}"
read -ra score <<<"${SCORE:-}"
read -ra pair <<<"${PAIR:-}"
read -ra data <<<"${DATA:-}"
read -ra train <<<"${TRAIN:-}"
skipped=0.1 # of the rows, at most: validation lets pass what training would skip
[[ " ${TRAIN:-} " =~ \ --max_skipped_share[=\ ]+([^ ]+)\  ]] && skipped=${BASH_REMATCH[1]}
read -ra evaluate <<<"${EVALUATE:---temperature 1 --samples 8 --greedy}"

if [[ -z ${DRY_RUN:-} ]]; then
    mkdir -p "$out/done"
    exec 9>"$out/lock" # kept by every process below: none of an earlier run may still be at work
    flock -w "${PATIENCE:-60}" 9 || die "$out is in use by another run" # one just killed takes a moment to end
fi

stage() { # name, command...: runs it once; done/<name> holds the command that was completed
    local mark=$out/done/$1
    printf '\n== %s\n' "$1"
    shift
    if [[ -n ${DRY_RUN:-} ]]; then
        printf '%q ' "$@" && echo
    elif [[ ! -e $mark ]]; then
        "$@"
        echo "$*" >"$mark.tmp" && mv "$mark.tmp" "$mark"
    elif [[ $(<"$mark") != "$*" ]]; then
        die "$mark was done by another command:" "$(<"$mark")" "now it is: $*; go on as before, or take another --out"
    else
        echo "complete"
    fi
}
launch=(bash shell/launch.sh)
one_engine=(env GPUS="$tp" "${launch[@]}") # its first process works, on the GPUs of all

ask() { # stage, checkpoint, result, more flags
    stage "$1" "${one_engine[@]}" tools.evaluate --checkpoint "$2" --out "$3.json" --plot "$3.png" --max-num 12 \
        --reasoned "${questions[@]}" --image-root "$root" "${@:4}" "${evaluate[@]}"
}

[[ -z $critic ]] || stage critic "$PYTHON" -m tools.scoring.critic "$critic" # before hours are spent on answers for it
stage split "$PYTHON" -m tools.evaluation.split --prompts "${prompts[@]}" --share "${SHARE:-0.1}" "${image_root[@]}" \
    --out "$out/questions" ${held_out[@]+--held-out "${held_out[@]}"}
root=IMAGE_ROOT prompts=("$out/questions/train/*") questions=("$out/questions/held_out/*")
if [[ -z ${DRY_RUN:-} ]]; then
    root=$(<"$out/questions/image_root") prompts=("$out"/questions/train/*) questions=("$out"/questions/held_out/*)
fi
ask before "$first" "$out/before"

from=$first
for ((round = 1; round <= rounds; round++)); do
    at=$out/round_$round
    stage "sample_$round" "${launch[@]}" tools.reasoning_data_pipeline.mmpr_data_pipeline_correctness --checkpoint "$from" \
        --prompt-path "${prompts[@]}" --image-root "$root" --out-dir "$at/sampled" --seed "$round" \
        --num-return-sequences 32 --dynamic --max-num 12 --tp "$tp" "${sample[@]}"
    answers=$at/sampled by_score=()
    if [[ -n $critic ]]; then
        answers=$at/scored by_score=(--by-score)
        stage "score_$round" "${launch[@]}" tools.score_steps --critic "$critic" --data-dir "$at/sampled" \
            --save-dir "$answers" --max-num 12 --image-root "$root" "${score[@]}"
    fi
    stage "pair_$round" env LAUNCHER=local "${launch[@]}" \
        tools.reasoning_data_pipeline.mmpr_data_pipeline_correctness_postprocess --data-dir "$answers" \
        --save-dir "$at/pairs" --answer-fix --image-root "$root" ${by_score[@]+"${by_score[@]}"} "${pair[@]}"
    rows=(--meta_path "$at/pairs/meta.json" --model_name_or_path "$from" "${data[@]}")
    stage "validate_$round" "$PYTHON" tools/validate.py "${rows[@]}" --max_skipped_share "$skipped" \
        --output_dir "$at/validation"
    stage "train_$round" env REPORT=0 "${launch[@]}" internvl_chat.train_mpo "${rows[@]}" --output_dir "$at/checkpoint" \
        --reference cache --learning_rate 1e-6 --drop_path_rate 0.1 --max_skipped_share "$skipped" "${train[@]}"
    ask "after_$round" "$at/checkpoint" "$at/after" --before "$out/before.json"
    stage "report_$round" "$PYTHON" tools/report.py "$at/checkpoint" --evaluation "$at/after.json" \
        --out "$at/report.html"
    from=$at/checkpoint
done

[[ -n ${DRY_RUN:-} ]] || "$PYTHON" -m tools.evaluation.table "$at/after.json"
echo "checkpoint: $from   report: $at/report.html   all: $out"
