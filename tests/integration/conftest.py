"""What the integration tests share: flags of a tiny run, its losses, and that of a single process."""

import json
import shutil

import pytest

from internvl_chat.train_mpo import main
from tests.flags import as_flags


@pytest.fixture(scope="session")
def tiny_flags(golden_folder, tmp_path_factory):
    """Function from an output folder and changes to the flags of a run of 10 steps of 2 pairs in float32."""
    data = shutil.copytree(golden_folder / "data", tmp_path_factory.mktemp("golden") / "data")

    def make(output_dir, **changes):
        settings = {
            "model_name_or_path": golden_folder / "ckpt" / "tiny-qwen2",
            "meta_path": data / "meta.json",
            "output_dir": output_dir,
            "force_image_size": 56,
            "max_seq_length": 512,
            "per_device_train_batch_size": 1,
            "gradient_accumulation_steps": 1,
            "nll_mode": "pair",  # the same for one micro-batch of two pairs and two of one
            "learning_rate": 1e-4,
            # The loss hardly knows the biases of keys (in InternViT not at all): with Adam's usual 1e-8 they would move
            # by what rounding leaves of their gradients.
            "adam_epsilon": 1e-4,
            "lr_scheduler_type": "constant",
            "max_steps": 10,
            "save_steps": 5,
            "logging_steps": 1,
            "report_to": "none",
            "disable_tqdm": True,
            "bf16": False,
            "dataloader_num_workers": 0,
            **changes,
        }
        return as_flags(settings)

    return make


@pytest.fixture(scope="session")
def losses_of():
    """Function from the folder of a run to {step: loss}."""

    def read(folder):
        history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
        return {entry["step"]: entry["loss"] for entry in history if "loss" in entry}

    return read


@pytest.fixture(scope="session")
def single_process(tiny_flags, tmp_path_factory):
    """Folder of the run in one process, two pairs at once."""
    folder = tmp_path_factory.mktemp("single")
    main(tiny_flags(folder, per_device_train_batch_size=2))
    return folder
