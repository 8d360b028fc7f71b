"""From a manifest of videos and questions to training batches.

The modules in the order a sample walks through them::

    manifest -> shards -> index -> source -> plan -> decode -> batch -> loader

Importing this package is cheap: PyAV, torch and webdataset are imported by the modules that use
them, so name the module: ``from dataloaders.loader import Loader``.
"""

from dataloaders.errors import DataError
from dataloaders.manifest import Question, Video, read_manifest, write_manifest

__all__ = ["DataError", "Question", "Video", "read_manifest", "write_manifest"]
