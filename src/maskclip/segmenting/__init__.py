"""Label maps for people's own pictures: which pictures, what is written for each, and how a run goes on after a kill."""
