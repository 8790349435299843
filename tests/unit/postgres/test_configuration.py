"""Settings of the embedded server follow the machine, and its log can hold no patient."""

from __future__ import annotations

from presage_platform.postgres.configuration import GIB, configuration


def test_p22_memory_and_cores_decide() -> None:
    small = _settings(configuration(memory_bytes=2 * GIB, num_cores=2, free_disk_bytes=10 * GIB, major=18))
    large = _settings(configuration(memory_bytes=256 * GIB, num_cores=64, free_disk_bytes=900 * GIB, major=18))
    names = ("shared_buffers", "work_mem", "maintenance_work_mem", "max_wal_size", "effective_cache_size")
    assert [small[name] for name in names] == ["256MB", "8MB", "128MB", "1024MB", "1024MB"]
    assert [large[name] for name in names] == ["8192MB", "256MB", "2048MB", "4096MB", "131072MB"]
    assert (small["max_parallel_workers"], large["max_parallel_workers"]) == ("2", "64")
    assert (small["jit"], small["wal_compression"], small["listen_addresses"]) == ("off", "on", "")


def test_p16_server_log_keeps_to_itself() -> None:
    settings = _settings(configuration(memory_bytes=GIB, num_cores=1, free_disk_bytes=GIB, major=15))
    assert settings["log_min_messages"] == "log"  # above ERROR: no message that quotes a value
    assert settings["log_min_error_statement"] == "panic"
    assert settings["log_error_verbosity"] == "terse"
    assert settings["log_statement"] == "none"


def _settings(text: str) -> dict[str, str]:
    pairs = (line.split(" = ", 1) for line in text.splitlines() if not line.startswith("#"))
    return {name: value.strip("'") for name, value in pairs}
