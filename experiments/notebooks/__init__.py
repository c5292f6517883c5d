"""Three tutorial notebooks, stored with their text outputs."""
