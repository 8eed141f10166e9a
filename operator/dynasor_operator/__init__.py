"""The Kubernetes operator of `dynasor.dev/v1alpha1`.

A skeleton: the package reserves the name and its place in the wheel, and holds no controller yet. It will
reconcile `ReasoningQuery`, `ReasoningPool` and `ReasoningPolicy` with kopf, reach the processes through
`dynasor_serve.api` like any other client, and import nothing else of `dynasor_serve` but the kits `rpc` and
`telemetry`.
"""
