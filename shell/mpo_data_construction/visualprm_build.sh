#!/bin/sh
# Conversations and pairs for a process reward model from what visualprm_sample.sh scored.
export LAUNCHER="${LAUNCHER:-local}"
exec bash "$(dirname "$0")/../launch.sh" tools.reasoning_data_pipeline.visualprm_data_pipeline_postprocess \
    --data-dir sampled/visualprm --save-dir pairs/visualprm \
    --mc-threshold 0.0 --include-orm-data "$@"
