"""Process: the owner of running programs.

Claims accepted queries by lease, drives each program's state machine, asks the scheduler for grants, opens
the engine calls itself and applies the stopping rule at each arrival. What happens is appended to the
program's log before it is acted on, so that any tracker can take over from any point.
"""
