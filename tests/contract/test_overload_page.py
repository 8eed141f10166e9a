"""docs/overload.md names the settings and defaults that the code has, and every refusal that asks to come back."""

from __future__ import annotations

import re
from pathlib import Path

from dynasor_serve.gateway.settings import GatewaySettings
from dynasor_serve.rpc.errors import Reason, ServiceError
from dynasor_serve.tracker.settings import TrackerSettings

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "overload.md").read_text(encoding="utf-8")
SETTINGS = {
    f"{model.model_config['env_prefix']}{name.upper()}": field.default
    for model in (GatewaySettings, TrackerSettings)
    for name, field in model.model_fields.items()
}


def test_every_setting_that_is_named_exists() -> None:
    named = set(re.findall(r"DYNASOR_[A-Z_]+", PAGE))
    assert named, "the page names no setting; has their spelling changed?"
    assert named <= SETTINGS.keys()


def test_bounds_have_the_defaults_that_the_table_says() -> None:
    rows = dict(re.findall(r"\| `(DYNASOR_[A-Z_]+)` \| `(\d+)` \|", PAGE))
    assert len(rows) == 6
    assert rows == {name: str(SETTINGS[name]) for name in rows}


def test_shares_have_the_defaults_that_the_text_says() -> None:
    shares = dict(re.findall(r"`(DYNASOR_[A-Z_]+_SHARE)`s? \(`([\d.]+)`", PAGE))
    assert shares == {
        name: str(SETTINGS[name]) for name in ("DYNASOR_GATEWAY_URGENT_SHARE", "DYNASOR_TRACKER_INTERACTIVE_SHARE")
    }


def test_every_reason_of_overload_is_explained() -> None:
    explained = set(re.findall(r"`([A-Z]+_[A-Z_]+)`", PAGE))
    # Redis is full: no bound of a queue, and errors.md says all there is to say.
    overload = {reason.value for reason in Reason if ServiceError(reason, "").is_overload} - {"STATE_FULL"}
    assert overload <= explained
