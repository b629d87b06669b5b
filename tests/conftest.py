"""Shared by all tests: property tests repeat and never fail for being slow, and kernels run where there is no GPU."""

import os

import torch
from hypothesis import HealthCheck, settings

settings.register_profile("titans", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("titans")

if not torch.cuda.is_available():  # now: a test module may load a package that loads triton, and then it is too late
    os.environ.setdefault("TRITON_INTERPRET", "1")
