"""Kit: how does one call reach an engine, and what comes back?

The client for vLLM and any OpenAI-compatible server, and the replay engine that answers from recorded traces.
The tracker opens, reads and cancels calls through it; `local` starts a replay engine where there is no GPU.
Engines speak only of single calls: what a call means to its program is the tracker's business.
"""
