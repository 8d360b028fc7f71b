"""From a manifest of videos and questions to training batches.

The modules in the order a sample walks through them::

    manifest -> shards -> index -> source -> plan -> decode -> batch -> loader

Importing this package is cheap: pydantic, PyAV, torch and webdataset are imported by the modules
that use them, so name the module: ``from dataloaders.loader import Loader``.
"""
