"""Which engine processes there are to be: one per card of this host, or so many on a CPU. Knows no torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from bluelm.config import Settings
from bluelm.errors import SettingError

Place = tuple[Settings, dict[str, str]]
"""An engine's settings, and the environment variables that show it its card."""


def places(settings: Settings) -> list[Place]:
    """One for each engine process. Raises SettingError for cards that are not there."""
    cards = _cards(settings)
    count = settings.engines or max(len(cards), 1)
    if cards and count > len(cards):
        raise SettingError(
            f"BLUELM_ENGINES is {count}, but BLUELM_DEVICE {settings.device} gives {len(cards)} cards, and each engine "
            "takes one: set it to 0, or to their number at most.",
            param="engines",
        )
    if count == 1 and ":" not in settings.device:
        return [(settings, {})]
    threads = settings.threads or max((os.cpu_count() or 1) // count, 1)
    if not cards:
        return [(settings.model_copy(update={"threads": threads}), {})] * count
    device = settings.device.partition(":")[0]
    each = settings.model_copy(update={"threads": threads, "device": device})
    return [(each, {"CUDA_VISIBLE_DEVICES": card, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}) for card in cards[:count]]


def _cards(settings: Settings) -> list[str]:
    """Those that the settings ask for, as CUDA_VISIBLE_DEVICES names them."""
    device, _, numbers = settings.device.partition(":")
    if device == "cpu":
        return []
    there = visible(os.environ)
    if not numbers:
        return there
    asked = list(dict.fromkeys(int(number) for number in numbers.split(",")))
    if missing := [number for number in asked if number >= len(there)]:
        raise SettingError(
            f"BLUELM_DEVICE is {settings.device}, but there are {len(there)} cards, numbered from 0: "
            f"{missing[0]} is not one of them.",
            param="device",
        )
    return [there[number] for number in asked]


def visible(environment: Mapping[str, str], driver: Path = Path("/proc/driver/nvidia/gpus")) -> list[str]:
    """NVIDIA cards of this host: those of CUDA_VISIBLE_DEVICES, or all that the driver knows."""
    if (said := environment.get("CUDA_VISIBLE_DEVICES")) is not None:
        names = [name.strip() for name in said.split(",")]
        end = next((place for place, name in enumerate(names) if name in ("", "-1")), len(names))
        return names[:end]  # CUDA stops at the first that is none
    nodes = list(driver.iterdir()) if driver.is_dir() else list(Path("/dev").glob("nvidia[0-9]*"))
    return [str(number) for number in range(len(nodes))]
