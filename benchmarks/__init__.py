"""How fast, how small and how exact: one command, one table, one process. Run `python -m benchmarks`."""
