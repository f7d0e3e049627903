"""Scores, result cards and tables."""
