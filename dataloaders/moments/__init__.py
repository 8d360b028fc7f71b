"""The sample corpus "moments": short clips of several events each, with hard questions.

``scene`` decides what happens when, ``sprites`` and ``render`` draw it, ``questions`` asks about
it, ``corpus`` writes encoded clips and one manifest a split.
"""
