"""From the archives of a data set's release to images, index masks and split files: what scripts/prepare_*.py share."""
