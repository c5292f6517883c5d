"""Three notebooks to learn from, stored with their text outputs."""
