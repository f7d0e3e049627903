"""What turns images into class logits: MaskCLIP (`maskclip`) and the students of MaskCLIP+ (`student`), which need no CLIP."""
