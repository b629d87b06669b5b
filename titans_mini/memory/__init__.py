"""The memory: a network whose weights are written, token by token, while it reads."""
