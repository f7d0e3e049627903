"""Data sets of images and masks, their samplers and transforms."""
