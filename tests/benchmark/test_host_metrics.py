from __future__ import annotations

import os
import socket
from pathlib import Path

from edge_agent.benchmark import host_metrics

JETSON = {
    "var/lib/nvpmodel/status": "pmode:0002 fmode:quiet",
    "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=MAXN >\n< POWER_MODEL ID=2 NAME=15W >\n",
    "sys/devices/virtual/thermal/thermal_zone0/type": "CPU-therm\n",
    "sys/devices/virtual/thermal/thermal_zone0/temp": "48500\n",
    "sys/devices/virtual/thermal/thermal_zone1/type": "off-therm\n",
    "sys/devices/virtual/thermal/thermal_zone1/temp": "",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "1510400\n",
    "sys/class/devfreq/17000000.gpu/cur_freq": "624750000\n",
}


def test_a_jetson_reports_power_mode_clocks_and_temperatures(tmp_path: Path) -> None:
    for name, text in JETSON.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert host_metrics.state(tmp_path) == {
        "power_mode": "15W",
        "cpu_mhz": [1510],
        "device_mhz": {"17000000.gpu": 624},
        "temperature_c": {"CPU-therm": 48.5},
    }


def test_another_machine_reports_nothing(tmp_path: Path) -> None:
    assert host_metrics.state(tmp_path) == {}


def test_the_process_behind_a_socket_is_found(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "a.sock"))
        listening.listen()
        assert host_metrics.listening_pid(f"unix://{tmp_path}/a.sock") == os.getpid()
        assert host_metrics.listening_pid(f"unix:{tmp_path}/a.sock") == os.getpid()
    assert host_metrics.listening_pid(f"unix://{tmp_path}/none.sock") is None
    assert host_metrics.listening_pid("localhost:1") is None


def test_a_process_has_used_time_and_memory() -> None:
    assert host_metrics.cpu_seconds(os.getpid()) > 0.0
    assert host_metrics.peak_rss_mib(os.getpid()) > 1.0
