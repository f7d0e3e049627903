"""Label maps for a folder of images: inputs, outputs, resuming, and the loop over the images."""
