"""The parts of `python -m benchmarks.loader`.

`clips` encodes what is decoded, `contenders` are the loaders that are compared, `child` runs one
in a process of its own, `decoding` lets them take turns; `overhead`, `questions`, `resume` and
`planning` measure our own loader; `report` writes Markdown and JSON.
"""
