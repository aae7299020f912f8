"""The documented older name of tools/reasoning_data_pipeline/mmpr_data_pipeline_correctness_postprocess.py."""

from internvl_chat.run.entry import enter
from tools.reasoning_data_pipeline.mmpr_data_pipeline_correctness_postprocess import main

if __name__ == "__main__":
    enter(main)
