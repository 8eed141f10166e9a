"""Process: do these answers mean the same, and how good is this one?

Stateless and CPU-bound: symbolic equality, code and embeddings for what canonical strings cannot decide,
reward models, and the policies with their calibration tables and audits. Trackers call it in batches. It is a
process of its own because model output is hostile input: a worker that hangs or dies is replaced, and no
verdict waits for it.
"""
