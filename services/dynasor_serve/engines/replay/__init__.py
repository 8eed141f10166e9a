"""The replay engine: the HTTP face, streaming, metrics and abort behaviour of vLLM, answering from recorded traces.

A recorded trace holds what a real model did: many answers to a question, one long chain that was asked for its answer
on the way, or a search tree. The replay engine plays them back token by token with a timing of one's choice, so that
answers *converge* as they do on a GPU: rules, schedulers and whole clusters can be tried where there is none.

The way of one request: `handlers` and `generation` read it (`requests`, `chat_template`), `playback` finds its
recording (`trace_index` over `traces` and `records`) and where in the prompt the assistant's words begin (`reply`). A
play (`sample_play`, `chain_play`, `tree_play`) tells what those words repeat and what is asked behind them (`placing`,
`suffixes`), and answers with what was recorded there: text (`emission`, `token_offsets`, `synthetic_text`,
`chain_text`, `tree`, `probe_reply`) and log-probabilities (`token_odds`); where there are several, `branches` chooses.
The answer waits for a slot and for each token's time (`engine`, `timing`, `prefix_cache`), and goes out as vLLM's bytes
(`responses`, `logprob_fields`). `metrics` counts as vLLM does, and `faults` breaks what it is told to break.
`rewarding` and `pooling` stand for a reward model over the same recordings, `tokenization` for a tokenizer. `app`,
`settings` and `__main__` start the process, and `in_flight` ends it in order.
"""
