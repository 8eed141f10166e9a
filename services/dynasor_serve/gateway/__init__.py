"""Process: may this query come in, and what has become of it?

The only process that clients talk to, by gRPC and by an OpenAI-compatible HTTP API. It authenticates,
validates, applies quota and *accepts*: one atomic step in Redis after which the query cannot be lost. From
then on it follows the program's log for whoever watches, and never calls an engine.
"""
