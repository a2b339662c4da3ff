"""What a training tells of itself: losses, speed, where the time goes, samples."""
