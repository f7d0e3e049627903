"""A frozen CLIP: image towers with dense features, text embeddings and weights."""
