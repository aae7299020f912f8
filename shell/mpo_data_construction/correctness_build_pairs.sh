#!/bin/sh
# Judge what correctness_sample.sh sampled, at all tile limits together, and build pairs with a meta.json to train from.
export LAUNCHER="${LAUNCHER:-local}"
exec bash "$(dirname "$0")/../launch.sh" tools.reasoning_data_pipeline.mmpr_data_pipeline_correctness_postprocess \
    --data-dir sampled/correctness --save-dir pairs/correctness \
    --answer-fix --num-pairs-per-key 15 --max-lines 1200000 "$@"
