"""Tools of the repository: they work on it and are no part of the package."""
