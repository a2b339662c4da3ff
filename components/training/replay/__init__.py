"""One step made again, and what was in it."""
