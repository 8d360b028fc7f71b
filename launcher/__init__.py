"""From a run file to a trained, resumable, evaluated model.

The modules in the order a run walks through them::

    train -> config -> preflight -> cluster -> worker -> (engine, checkpoint) -> loop -> step

Importing this package is cheap: Ray, DeepSpeed and torch are imported by the modules that use
them.
"""
