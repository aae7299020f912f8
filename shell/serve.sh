#!/usr/bin/env bash
# Starts a server of a checkpoint that the pipelines and the evaluation can ask (--engine server): one per node.
#
#   bash shell/serve.sh CHECKPOINT [FLAGS OF THE SERVER...]
#
# Prints the URL of each server once it answers, and writes them to URLS; then sample from anywhere with
# SERVERS="$(cat work_dirs/servers.txt)". Ends with the servers; Ctrl-C or kill ends them.
#
# Environment, all optional:
#   ENGINE=vllm         or lmdeploy; what is installed for PYTHON
#   PYTHON              interpreter that has it; default: work_dirs/clients/$ENGINE, where `make clients` puts it, or .venv
#   LAUNCHER            slurm | local; default: slurm where NODES is given
#   NODES=1             servers, one on each node: slurm
#   PORT=8000  TP=1     port, and GPUs of a server
#   HOST                address to listen on; default: this machine only, under Slurm all. No key, no encryption: who
#                       reaches the port can ask, and choose the tiles of images (vLLM: --trust-request-mm-kwargs)
#   SESSION_LEN=16384   tokens of prompt and answer
#   MEDIA_ROOT          folder that images may be read from by path: sample with --media-root
#   WAIT=1800           seconds for the servers to come up
#   URLS=work_dirs/servers.txt   DRY_RUN=1 prints the command
#   PARTITION, SRUN_ARGS         as of launch.sh
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@"
set -euo pipefail
here=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.."

die() {
    echo "serve.sh: $*" >&2
    exit 2
}

(($#)) || die "name a checkpoint; what can be set stands at the head of this file"
checkpoint=$1
shift
[[ ! -d $here/$checkpoint ]] || checkpoint=$(cd "$here/$checkpoint" && pwd)
ENGINE=${ENGINE:-vllm} NODES=${NODES:-} PORT=${PORT:-8000} URLS=${URLS:-work_dirs/servers.txt} WAIT=${WAIT:-1800}
SESSION=${SESSION_LEN:-16384}
if [[ -z ${PYTHON:-} ]]; then
    for PYTHON in "work_dirs/clients/$ENGINE/bin/python" .venv/bin/python python3; do
        ! command -v "$PYTHON" >/dev/null || break
    done
fi
LAUNCHER=${LAUNCHER:-$([[ -n $NODES ]] && echo slurm || echo local)}
host=${HOST:-$([[ $LAUNCHER == slurm ]] && echo 0.0.0.0 || echo 127.0.0.1)}

# --- the command of one server
remote=()
! grep -qs '"auto_map"' "$checkpoint/config.json" || remote=(--trust-remote-code)
[[ -d $checkpoint || $checkpoint == *-hf || $checkpoint == *-HF ]] || remote=(--trust-remote-code)
case $ENGINE in
vllm) # the module, as the `vllm` command of the build for CPUs does not start; `string`: prompts as training has them
    command=("$PYTHON" -m vllm.entrypoints.openai.api_server --model "$checkpoint" --host "$host" --port "$PORT"
        --tensor-parallel-size "${TP:-1}" --max-model-len "$SESSION" "${remote[@]}"
        --generation-config vllm --chat-template-content-format string --trust-request-mm-kwargs
        --limit-mm-per-prompt '{"image": 32, "video": 0}')
    # on a CPU 0.32 dies of a seeded prompt that is computed in two pieces
    [[ $LAUNCHER == slurm ]] || command -v nvidia-smi >/dev/null || command+=(--enforce-eager
        --no-enable-chunked-prefill --max-num-batched-tokens "$((SESSION > 16384 ? SESSION : 16384))")
    [[ -z ${MEDIA_ROOT:-} ]] || command+=(--allowed-local-media-path "$MEDIA_ROOT")
    ;;
lmdeploy)
    command=("$PYTHON" -m lmdeploy serve api_server "$checkpoint" --server-name "$host" --server-port "$PORT"
        --tp "${TP:-1}" --session-len "$SESSION" "${remote[@]}" --enable-prefix-caching)
    ;;
*) die "ENGINE=$ENGINE is unknown: vllm or lmdeploy" ;;
esac
command+=("$@")

# --- where
case $LAUNCHER in
slurm)
    start=(srun --nodes="${NODES:=1}" --ntasks="$NODES" --ntasks-per-node=1 --gres=gpu:"${TP:-1}"
        --kill-on-bad-exit=1 --label --job-name=serve)
    [[ -z ${PARTITION:-} ]] || start+=(--partition="$PARTITION")
    read -ra more <<<"${SRUN_ARGS:-}"
    mkdir -p "$(dirname "$URLS")"
    # each task says where it runs before it becomes the server
    start+=("${more[@]}" bash -c 'echo "http://${SLURMD_NODENAME:-$(hostname)}:$0" >"$1.$SLURM_PROCID"; shift; exec "$@"'
        "$PORT" "$URLS")
    ;;
local) start=() ;;
*) die "LAUNCHER=$LAUNCHER is unknown: slurm or local" ;;
esac
if [[ -n ${DRY_RUN:-} && $DRY_RUN != 0 ]]; then
    printf '%q ' "${start[@]}" "${command[@]}"
    echo
    exit 0
fi

# --- run, and wait until they answer
mkdir -p "$(dirname "$URLS")"
rm -f "$URLS" "$URLS".[0-9]*
[[ $LAUNCHER == slurm ]] || echo "http://$([[ $host == 0.0.0.0 ]] && hostname || echo "$host"):$PORT" >"$URLS.0"
"${start[@]}" "${command[@]}" &
servers=$!
trap 'exit 130' INT
trap 'exit 143' TERM
trap '! kill "$servers" 2>/dev/null || wait "$servers" || true' EXIT # ports and GPUs are free when this script is gone

answers() { # a URL: does it say what it serves?
    python3 -c 'import sys, urllib.request as r; r.build_opener(r.ProxyHandler({})).open(sys.argv[1] + "/v1/models", timeout=5)' \
        "$1" 2>/dev/null
}
deadline=$((SECONDS + WAIT))
for ((number = 0; number < ${NODES:-1}; number++)); do
    until [[ -s $URLS.$number ]] && answers "$(cat "$URLS.$number")"; do
        kill -0 "$servers" 2>/dev/null || { wait "$servers" || die "the server ended with exit code $?"; }
        ((SECONDS < deadline)) || die "no answer within WAIT=$WAIT seconds"
        sleep 1
    done
    echo "serve.sh: $(cat "$URLS.$number") serves $checkpoint"
done
cat "$URLS".[0-9]* | tr '\n' ' ' | sed 's/ $/\n/' >"$URLS.whole"
mv "$URLS.whole" "$URLS" # who waits for the file never reads half of it
rm -f "$URLS".[0-9]*
wait "$servers"
