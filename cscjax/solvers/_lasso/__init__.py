"""Codes of one layer: min 1/2 ||x - D code||^2 + beta ||code||_1, and orthogonal matching pursuit."""
