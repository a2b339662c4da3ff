"""What a training keeps of itself: written, found again, fitted to other ranks, exported."""
