"""Domain: what does a program do next, given all that has happened to it?

One module per algorithm, each a pure state machine *(state, event) → (state, commands)*. The tracker folds a
program's log through it and acts on the commands; the simulation does the same in virtual time. Nothing here
reads a clock, draws a random number, opens a socket or knows Redis and gRPC: time and seeds arrive in the
events.
"""
