"""Scores of trained runs, side by side."""
