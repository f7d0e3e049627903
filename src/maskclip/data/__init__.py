"""Images, masks and the textures world."""
