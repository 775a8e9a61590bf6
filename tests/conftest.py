"""One thread a test process: the models are small, and OpenMP threads that wait spin."""

from __future__ import annotations

import os
import signal

os.environ.setdefault("OMP_NUM_THREADS", "1")  # also of the processes that tests start

import torch

torch.set_num_threads(1)


# A shell's background jobs ignore Ctrl-C, and so would everything that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
