"""The measurements behind scripts/benchmark.py."""
