"""Tutorial notebooks, stored with their outputs: text and small pictures."""
