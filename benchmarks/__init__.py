"""Benchmarks of speed, memory and accuracy: one command, one table, one process. Run `python -m benchmarks`."""
