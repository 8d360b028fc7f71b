"""`gcg doctor`: what this machine has, what it lacks, why that matters and what to do about it.

`checks` lists what is looked at, by concern: `machine`, `software`, `compute`, `links`, `video`,
`storage`. `isolate` runs each in a process of its own with a time limit, since a broken driver
crashes or hangs whoever asks it; `finding` is what comes out, `command` says it.
"""
