"""How much has each tenant been served? Virtual time: completion tokens divided by the tenant's weight.

Start-time fair queuing (Goyal et al., SIGCOMM'96): the tenant with the smallest virtual time goes next, and one that
had nothing to ask for starts at the present virtual time, so idle time is neither owed nor held against it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping


class TenantShares:
    """Virtual times of the tenants of one pool."""

    def __init__(self, weights: Mapping[str, float]) -> None:
        """`weights` are positive; a tenant that is not in them weighs 1."""
        self._weights = weights
        self._virtual_times: dict[str, float] = {}  # tenant -> tokens / weight
        self._now = 0.0  # the largest virtual time at which somebody was served

    def __len__(self) -> int:
        return len(self._virtual_times)

    def virtual_time(self, tenant: str) -> float:
        """Where a tenant stands, in tokens / weight; one that is unknown stands at the beginning, until it waits."""
        return self._virtual_times.get(tenant, 0.0)

    def begin(self, tenant: str, beside: str | None) -> None:
        """A tenant that waited for nothing waits for something now.

        Args:
            beside: the tenant that goes next of those that wait for the same; None where nobody does. Where that one
                stands is the present for both: others may be far ahead, served by what goes before shares.
        """
        present = self._now if beside is None else self.virtual_time(beside)
        self._virtual_times[tenant] = max(self.virtual_time(tenant), present)

    def serve(self, tenant: str, tokens: float) -> None:
        """A call was granted; it is charged what it is forecast to take."""
        self._now = max(self._now, self.virtual_time(tenant))
        self.charge(tenant, tokens)

    def charge(self, tenant: str, tokens: float) -> None:
        """Adds tokens to what a tenant has been served, or takes back some that it was not."""
        self._virtual_times[tenant] = self.virtual_time(tenant) + tokens / self._weights.get(tenant, 1.0)

    def forget_all_but(self, tenants: Collection[str]) -> None:
        """Forgets those who would start later than where they stand anyway, except the named, who wait."""
        earliest = min(map(self.virtual_time, tenants), default=self._now)
        self._virtual_times = {
            tenant: time for tenant, time in self._virtual_times.items() if time > earliest or tenant in tenants
        }
