"""Reading, writing, finding and drawing images."""
