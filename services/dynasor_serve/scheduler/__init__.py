"""Process: who may run what, where and when?

Holds what every live program wants and what every worker has, and hands out grants in the order that the
domain package `scheduling` decides. Control plane only: no token passes through it. One scheduler is active
per pool, by lease; it keeps no log, since trackers restate their wants when it changes.
"""
