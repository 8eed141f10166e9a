"""Process: do these answers mean the same, and how good is this one?

Stateless and CPU-bound: symbolic equality for what canonical strings cannot decide (`equality_pool`), and rewards that
are computed (`verification_pool`). Trackers call it in batches. It is a process of its own because model output is
hostile input: it is read in workers that are replaced when they hang or die, and run in a `sandbox` or not at all, and
no verdict waits for it.
"""
