"""GCG, the model: choose the moments a question is about, then answer from them.

The modules in the order of the method's steps::

    vision, text → description, labels → generator → gaussian → selection → losses → answering

``model`` joins them, ``build`` makes one from a :class:`gcg.config.GCGConfig`, ``metrics`` scores
time spans. Importing this package is cheap; torch and transformers come with the modules.
"""
