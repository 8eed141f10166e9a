"""The replay engine: the HTTP face, streaming, metrics and abort behaviour of vLLM, answering from recorded traces.

A recorded trace holds what a real model answered, many samples per question; the replay engine plays them
back token by token with a timing of one's choice, so that answers *converge* as they do on a GPU: rules,
schedulers and whole clusters can be tried where there is none.

The way of one request: `app` reads it (`requests`), finds its question (`trace_index` over `traces`) and its
sample (`branches`), renders the text (`emission`), waits for a slot and for each token's time (`engine`,
`timing`, `prefix_cache`), and writes vLLM's bytes (`responses`); `metrics` counts as vLLM does, and `faults`
breaks what it is told to break. `settings` and `__main__` start the process.
"""
