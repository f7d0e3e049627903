"""From an image to its label map."""
