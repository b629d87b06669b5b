"""Shared by all tests: property tests repeat, and never fail for being slow on a busy machine."""

from hypothesis import HealthCheck, settings

settings.register_profile("titans", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("titans")
