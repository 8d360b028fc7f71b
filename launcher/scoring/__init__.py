"""Official figures of benchmarks from result files: `gcg score`.

``files`` reads what others wrote, ``match`` says which prediction is for which question, one module
a family of benchmarks turns answers into figures, ``score`` ties them together. Questions, ids and
types come from ``dataloaders.importers``.
"""
