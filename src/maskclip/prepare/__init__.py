"""Prepare data sets: download, extract and convert releases to images, index masks and split files."""
