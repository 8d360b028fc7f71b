"""A small page on this machine: choose a clip, ask, see the answer and where the model looked."""
