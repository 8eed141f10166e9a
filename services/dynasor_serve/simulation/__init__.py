"""The domain's own code, fed with recorded traces instead of engines.

`replay` asks stopping rules about recorded programs: `votes`, `chains` and `trees` say what a rule sees of each kind of
record and what it would have cost, `scores` adds that up, `frontier` draws it. `allocation` is the paper's batch
experiment over them, and `labelling` hands them to the profiler.
"""
