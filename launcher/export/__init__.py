"""A trained run's model into a folder of its own, and to the hub."""
