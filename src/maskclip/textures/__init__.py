"""The synthetic data set that ships with the project: patterns, scenes and files."""
