"""Imported once by the server that forks the ranks."""

import os

os.environ |= {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}

import deepspeed  # noqa: E402, F401
import torch  # noqa: E402

import internvl_chat.training  # noqa: E402, F401

torch.set_num_threads(1)
