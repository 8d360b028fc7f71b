"""Checkpoints of a run, in the order they live through it.

``fence`` (which attempt may write) → ``commit`` (what makes a folder a checkpoint) → ``keeper``
(saving and restoring, on every rank) → ``find`` (which one to go on from) → ``verify`` (is it still
what was written) → ``universal`` and ``load`` (at another world size or ZeRO stage) → ``keep``
(which may go).
"""
