"""From an image to its label map: protocol, prediction, labels."""
