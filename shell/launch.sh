#!/usr/bin/env bash
# Starts a Python module as processes: under Slurm, with torchrun, or alone. The launchers beside it say what is special.
#
#   bash shell/launch.sh MODULE [FLAGS...]     MODULE such as internvl_chat.train_mpo; of flags given twice the later wins
#
# Environment, all optional:
#   DRY_RUN=1              print the command, the steps and the memory per GPU instead; exit code 1 where the run cannot
#                          start: it does not fit, checkpoint or data are missing
#   LAUNCHER               slurm | torchrun | local; default: slurm where there is srun, torchrun for several GPUs
#   GPUS, GPUS_PER_NODE=8  processes in all and on each node, one GPU each; local is always one process
#   PARTITION, QUOTA_TYPE (sites with --quotatype), CPUS_PER_TASK=10, SRUN_ARGS (more words for srun, quotes as in a shell)
#   GPU_MEMORY             GiB of one GPU, for the estimate; default: of the GPU that is seen here, else 80
#   MASTER_ADDR, NODE_RANK, MASTER_PORT=29500         torchrun on several nodes: the same command on each of them
#   BATCH_SIZE=$GPUS, PER_DEVICE_BATCH_SIZE=1         training: pairs per optimizer step, and per process at once
#   SERVERS                sampling and evaluation: URLs of servers (serve.sh) to ask, which other nodes run
#   REPORT=1               0 leaves out the report.html behind a training
#   PYTHON                 interpreter; default: that of .venv, else python
# Relative paths are meant from the root of the repository. The console goes to a log file in the output folder too.
# A batch job that Slurm warns with SIGUSR1 (sbatch --signal=USR1@300 --requeue) saves, stops, and queues itself again,
# at whatever moment the warning comes. The exit code is that of the task that failed first.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

die() {
    echo "launch.sh: $*" >&2
    exit 2
}

value_of() { # the last value of --$1 among the other words, in both spellings
    local name=$1 value= word previous=
    shift
    for word; do
        [[ $previous != --$name ]] || value=$word
        [[ $word != --$name=* ]] || value=${word#*=}
        previous=$word
    done
    echo "$value"
}

(($#)) || die "name a module, such as internvl_chat.train_mpo; what can be set stands at the head of this file"
module=$1
shift
default_python=python
[[ ! -x .venv/bin/python ]] || default_python=.venv/bin/python
PYTHON=${PYTHON:-$default_python}

# --- servers that answer elsewhere: what asks them needs no GPU
flags=()
if [[ -n ${SERVERS:-} && $module =~ ^tools\.(evaluate$|reasoning_data_pipeline) && $module != *postprocess ]]; then
    read -ra servers <<<"${SERVERS//,/ }"
    flags=(--engine server --server "${servers[@]}")
    LAUNCHER=${LAUNCHER:-local}
fi

# --- how many processes where
GPUS=${GPUS:-1} GPUS_PER_NODE=${GPUS_PER_NODE:-8}
LAUNCHER=${LAUNCHER:-$(if command -v srun >/dev/null; then echo slurm; elif ((GPUS > 1)); then echo torchrun; else echo local; fi)}
[[ $LAUNCHER != local ]] || GPUS=1
for name in GPUS GPUS_PER_NODE CPUS_PER_TASK BATCH_SIZE PER_DEVICE_BATCH_SIZE; do
    [[ ${!name:-1} =~ ^[1-9][0-9]*$ ]] || die "$name=${!name} is not a whole number of at least 1"
done
per_node=$((GPUS < GPUS_PER_NODE ? GPUS : GPUS_PER_NODE)) nodes=$(((GPUS + GPUS_PER_NODE - 1) / GPUS_PER_NODE))
((per_node * nodes == GPUS)) || die "GPUS=$GPUS do not fill nodes of GPUS_PER_NODE=$GPUS_PER_NODE: take a multiple of it"

# --- what every training of the published recipe shares
if [[ $module == internvl_chat.train_mpo ]]; then
    sharing=$(value_of sequence_parallel_size "$@") # GPUs that work on the same rows
    ((GPUS % ${sharing:=1} == 0)) || die "GPUS=$GPUS is no multiple of --sequence_parallel_size $sharing"
    BATCH_SIZE=${BATCH_SIZE:-$((GPUS / sharing))} PER_DEVICE_BATCH_SIZE=${PER_DEVICE_BATCH_SIZE:-1}
    at_once=$((GPUS / sharing * PER_DEVICE_BATCH_SIZE)) of="GPUS=$GPUS"
    ((sharing == 1)) || of+=" / $sharing"
    ((BATCH_SIZE % at_once == 0)) || die "BATCH_SIZE=$BATCH_SIZE is no multiple of the $at_once pairs of $of x" \
        "PER_DEVICE_BATCH_SIZE=$PER_DEVICE_BATCH_SIZE: there is no exact gradient accumulation"
    flags=(
        --per_device_train_batch_size "$PER_DEVICE_BATCH_SIZE" --gradient_accumulation_steps $((BATCH_SIZE / at_once))
        --loss_type sigmoid,bco_pair --sigmoid_loss_weight 0.8 --bco_pair_loss_weight 0.2 --rpo_alpha 1
        --num_train_epochs 1 --weight_decay 0.05 --warmup_ratio 0.03 --lr_scheduler_type cosine
        --bf16 True --grad_checkpoint True --dataloader_num_workers 8
        --save_strategy steps --save_steps 200 --save_total_limit 2 --logging_steps 1 --report_to tensorboard
    )
fi
flags+=("$@")

# --- where the console is kept, and what tasks note
folder=$(value_of output_dir "${flags[@]}")$(value_of out-dir "${flags[@]}")$(value_of save-dir "${flags[@]}")
result=$(value_of out "${flags[@]}")
[[ -z $result ]] || folder=$(dirname "$result")
notes=${folder:=work_dirs}/.task-${SLURM_JOB_ID:-alone}

# --- the command
case $LAUNCHER in
slurm)
    start=(srun --nodes="$nodes" --ntasks="$GPUS" --ntasks-per-node="$per_node" --gres=gpu:"$per_node"
        --cpus-per-task="${CPUS_PER_TASK:-10}" --kill-on-bad-exit=1 --label --job-name="${module##*.}")
    [[ -z ${PARTITION:-} ]] || start+=(--partition="$PARTITION")
    if [[ -n ${QUOTA_TYPE:-} ]]; then
        [[ -n ${DRY_RUN:-} ]] || [[ $(srun --help 2>&1) == *--quotatype* ]] ||
            die "QUOTA_TYPE=$QUOTA_TYPE: the srun of this site knows no --quotatype: unset QUOTA_TYPE"
        start+=(--quotatype="$QUOTA_TYPE")
    fi
    if [[ -n ${SRUN_ARGS:-} ]]; then
        words=$(xargs -n 1 printf '%s\n' <<<"$SRUN_ARGS") || die "SRUN_ARGS=$SRUN_ARGS: a quote is open"
        mapfile -t more <<<"$words"
        start+=("${more[@]}")
    fi
    start+=("$PYTHON" -I -S shell/task.py "$notes" "$PYTHON" -u)
    ;;
torchrun)
    start=("$PYTHON" -u -m torch.distributed.run --nproc_per_node="$per_node")
    if ((nodes == 1)); then
        start+=(--standalone)
    else
        meet="MASTER_ADDR=<host of the first node> and NODE_RANK=0..$((nodes - 1))"
        [[ -n ${DRY_RUN:-} || -n ${MASTER_ADDR:-} && -n ${NODE_RANK:-} ]] || die "GPUS=$GPUS are $nodes nodes of" \
            "GPUS_PER_NODE=$GPUS_PER_NODE: start this on each of them with $meet, or set GPUS=$GPUS_PER_NODE for one node"
        start+=(--nnodes="$nodes" --node_rank="${NODE_RANK:-NODE_RANK}"
            --master_addr="${MASTER_ADDR:-MASTER_ADDR}" --master_port="${MASTER_PORT:-29500}")
    fi
    ;;
local) start=("$PYTHON" -u) ;;
*) die "LAUNCHER=$LAUNCHER is unknown: slurm, torchrun or local" ;;
esac
command=("${start[@]}" -m "$module" "${flags[@]}")

estimate=("$PYTHON" -m tools.footprint --gpus "$GPUS" --gpus_per_node "$per_node"
    ${GPU_MEMORY:+--gpu_memory "$GPU_MEMORY"})
if [[ -n ${DRY_RUN:-} && $DRY_RUN != 0 ]]; then
    printf '%q ' "${command[@]}"
    echo
    [[ $module == internvl_chat.train_mpo ]] || exit 0
    exec "${estimate[@]}" -- "${flags[@]}"
fi

# --- run it, with its log and the signals that reach us
# rows differ in length from step to step: segments that grow keep the memory of a GPU whole (of both names torch reads)
[[ -n ${PYTORCH_ALLOC_CONF:-}${PYTORCH_CUDA_ALLOC_CONF:-} ]] || export PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True
mkdir -p "$folder"
log=$(cd "$folder" && pwd)/${module##*.}${NODE_RANK:+.node$NODE_RANK}.log
touch "$log"
begin=$(stat -c %s "$log")
exec > >(trap '' INT TERM USR1 PIPE && exec tee -a "$log") 2>&1 # the log goes on when nobody reads the console any more
printf '%q ' "${command[@]}"
echo
if [[ $module == internvl_chat.train_mpo && $LAUNCHER != local ]]; then # once, not by every rank
    "${estimate[@]}" --check -- "${flags[@]}" || exit
fi

rm -f "$notes".{warned,failed}
"${command[@]}" &
child=$!
# srun answers TERM by killing its tasks at once, but hands USR1 on to them; torchrun knows only TERM
forwarded=TERM
[[ $LAUNCHER != slurm ]] || forwarded=USR1
pass_on() { # the signal that reached us; bash makes its background processes deaf to INT
    received=$1 stopped_by=$1
    kill -s "$forwarded" "$child" 2>/dev/null || true
}
trap 'pass_on TERM' INT TERM
trap 'pass_on USR1' USR1
status=0 received=none stopped_by=
while [[ -n $received ]]; do # a signal ends the wait, not the process
    received=
    wait "$child" && status=0 || status=$?
done

((status != 138)) || stopped_by=${stopped_by:-USR1} # 128 + SIGUSR1: it reached the processes directly
[[ ! -e $notes.warned ]] || stopped_by=USR1
if ((status != 0)) && [[ $LAUNCHER == slurm ]]; then # srun's words on a task that was warned before it could note it
    sleep 0.2                                        # until tee has written them
    ! tail -c "+$begin" "$log" | grep -q '^srun: error: .*: User defined signal 1' || stopped_by=USR1
fi
((status == 0)) || [[ ! -s $notes.failed ]] || status=$(<"$notes.failed")
rm -f "$notes".{warned,failed}
if ((status != 0)) && [[ $stopped_by == USR1 && -n ${SLURM_JOB_ID:-} ]]; then
    echo "launch.sh: stopped before the time limit; job $SLURM_JOB_ID goes back into the queue"
    scontrol requeue "$SLURM_JOB_ID"
elif ((status != 0)); then
    echo "launch.sh: ended with exit code $status; see $log"
elif [[ $module == internvl_chat.train_mpo && ${NODE_RANK:-0} == 0 && ${REPORT:-1} != 0 ]]; then
    "$PYTHON" -m tools.report "$folder" || echo "launch.sh: the training is complete, its report failed: see above"
fi
exit "$status"
