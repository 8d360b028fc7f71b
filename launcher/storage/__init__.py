"""Where a run lies, and how its small files are written and read."""
