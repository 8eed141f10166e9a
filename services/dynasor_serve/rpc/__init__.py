"""Kit: how does a process serve gRPC, and how does it call another?

Servers with health, reflection and graceful drain, channels with deadlines and retry budgets, and the one
table that turns the domain's errors into gRPC status. All four processes and the operator build their servers
and channels here.
"""
