"""Pseudo-labels for packed data, and how good they are."""
