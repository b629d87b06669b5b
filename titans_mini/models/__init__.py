"""Language models with a memory: MAC, MAG, MAL, the memory alone, and their rivals.

`titans.py` holds `TitansLM`, `mac.py` and `mixers.py` the layers that differ, `config.py` their configuration.
"""
