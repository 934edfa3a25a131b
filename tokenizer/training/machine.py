"""What a run was computed on, for its record."""

import json
import os
from pathlib import Path

import torch

from ..files import write_whole


def remember_machine(folder: Path, device: torch.device, processes: int) -> None:
    """Write `machine.json`; of a run that was continued elsewhere, that of the last part."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = f"{os.cpu_count()} CPU cores ({torch.backends.cpu.get_cpu_capability()}), {torch.get_num_threads()} used"
    values = {"device": name, "processes": processes, "torch": torch.__version__}
    write_whole(folder / "machine.json", json.dumps(values, indent=1).encode())
