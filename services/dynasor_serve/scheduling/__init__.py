"""Domain: whose call goes next, and to which worker?

Orderings and placements, one module per algorithm, with the forecasts of remaining work and the fairness
bounds they share. The scheduler process calls them on every grant and the simulation on every virtual one;
both pass the present time in. An ordering never waits, and knows calls, programs and workers only as the
frozen values it is handed.
"""
