"""Language models with a memory: MAC, MAG, MAL, the memory alone, and their rivals."""
