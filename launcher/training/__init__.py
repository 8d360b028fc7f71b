"""A worker's way: build, restore, train, close."""
