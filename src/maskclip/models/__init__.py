"""Models from images to class logits: MaskCLIP, and the students of MaskCLIP+, which need no CLIP."""
