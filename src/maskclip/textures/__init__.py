"""The synthetic world that ships with the project: patterns, scenes and the data set made of them."""
