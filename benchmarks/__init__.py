"""Benchmarks of speed and memory: one command, one process, one table. Run `python -m benchmarks`."""
