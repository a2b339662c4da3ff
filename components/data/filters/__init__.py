"""What is dropped of a corpus, by rules that each count what they take: by document (`chain`), then over the whole corpus (`whole`)."""
