"""Runs as jobs of a Ray cluster: sent there, followed, listed, stopped, over Ray's job API."""
