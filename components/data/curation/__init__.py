"""Curation as in ILLUME-X: videos become frames, filtered and told at three levels."""
