"""Kit: where is a program written down, and who may write to it?

Redis keys, the Lua scripts that make each step atomic, the program's log and the leases with their epochs.
The gateway accepts and tails through it; the tracker claims, appends and closes; the scheduler holds its
pool's lease by it. Every key is built in one module and every atomic step is one `.lua` file.
"""
