"""Kernels run on a GPU where there is one, else by Triton's interpreter, which has to be told before triton loads."""

import os
import sys

import torch

if not torch.cuda.is_available() and "triton" not in sys.modules:
    os.environ.setdefault("TRITON_INTERPRET", "1")
