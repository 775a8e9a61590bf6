"""One thread a test process: the models are small, and OpenMP threads that wait spin."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # also of the processes that tests start

import torch

torch.set_num_threads(1)
