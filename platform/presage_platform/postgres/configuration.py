"""Settings of the embedded server, by memory and cores of this machine; the user's own `user.conf` wins over them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import psutil

MIB = 1024 * 1024
GIB = 1024 * MIB


def configuration(*, memory_bytes: int, num_cores: int, free_disk_bytes: int, major: int) -> str:
    """Return the text of presage.conf."""
    max_wal = 4 * GIB if free_disk_bytes > 40 * GIB else GIB
    settings: dict[str, str | int] = {
        "listen_addresses": "",
        "unix_socket_permissions": "0700",
        "max_connections": 100,
        "shared_buffers": _mib(memory_bytes // 8, low=64 * MIB, high=8 * GIB),
        "effective_cache_size": _mib(memory_bytes // 2, low=128 * MIB, high=512 * GIB),
        "work_mem": _mib(memory_bytes // 256, low=8 * MIB, high=256 * MIB),
        "maintenance_work_mem": _mib(memory_bytes // 16, low=64 * MIB, high=2 * GIB),
        "max_wal_size": _mib(max_wal, low=MIB, high=max_wal),
        "checkpoint_timeout": "15min",
        "wal_level": "minimal",
        "max_wal_senders": 0,
        "wal_compression": "on",
        "max_parallel_workers": num_cores,
        "max_worker_processes": max(8, num_cores),
        "max_parallel_workers_per_gather": max(1, num_cores // 2),
        "jit": "off",
        "timezone": "UTC",
        "log_timezone": "UTC",
        # A server log must hold no value of a patient: no statements, no parameters, no DETAIL, no messages of clients.
        "log_min_messages": "log",
        "log_min_error_statement": "panic",
        "log_error_verbosity": "terse",
        "log_statement": "none",
        "log_min_duration_statement": -1,
        "log_parameter_max_length": 0,
        "log_parameter_max_length_on_error": 0,
        "log_checkpoints": "off",
    }
    if major >= 16:
        settings["reserved_connections"] = 0
    lines = [f"{name} = '{value}'" for name, value in settings.items()]
    return (
        "# Written by presage at each start; put your own settings into user.conf beside it.\n"
        + "\n".join(lines)
        + "\n"
    )


def configuration_of_this_machine(data: Path, major: int) -> str:
    """Return the text of presage.conf for the machine, or the container, that we run in."""
    return configuration(
        memory_bytes=_memory_bytes(),
        num_cores=os.cpu_count() or 1,
        free_disk_bytes=shutil.disk_usage(data).free,
        major=major,
    )


def _memory_bytes() -> int:
    total = psutil.virtual_memory().total
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        return total
    return min(total, int(limit)) if limit.isdigit() else total


def _mib(size_bytes: int, *, low: int, high: int) -> str:
    return f"{min(max(size_bytes, low), high) // MIB}MB"
