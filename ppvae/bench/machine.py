"""The machine that figures were taken on, in words: without it no time means anything."""

from __future__ import annotations

import os
import platform
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

VERSIONS = ("ppvae", "torch", "pyro-ppl", "numpy", "numpyro", "jax", "pythae")


def machine() -> dict[str, Any]:
    """Processor, cores, threads, GPU, the versions that times depend on, the load that was there, and the date (UTC)."""
    return {
        "system": platform.platform(terse=True),
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "versions": {name: version(name) for name in VERSIONS},
        "load": load(),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
    }


def load() -> list[float] | None:
    """The mean number of processes that ran or waited, over 1, 5 and 15 minutes; None where the system keeps none."""
    return [round(value, 2) for value in os.getloadavg()] if hasattr(os, "getloadavg") else None


def processor() -> str:
    """The model of the processor, as Linux names it, else as Python does."""
    described = Path("/proc/cpuinfo")
    lines = described.read_text().splitlines() if described.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def version(package: str) -> str | None:
    """The installed version, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
