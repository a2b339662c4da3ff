"""What watches a training, and what is done when something went wrong."""
