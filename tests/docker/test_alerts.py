"""Every alert fires when it should, and not before: Prometheus's own tools say so."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

PROMETHEUS = Path(__file__).parents[2] / "docker" / "prometheus"
RULES = sorted(PROMETHEUS.glob("*alerts.yaml"))
CASES = Path(__file__).with_name("alert_cases.yaml")


def run(*command: str | Path) -> None:
    """Run a tool; skip the test where it is not installed."""
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed: Debian has it in the package prometheus")
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def alerts() -> set[str]:
    return {
        rule["alert"]
        for path in RULES
        for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]
        for rule in group["rules"]
    }


def test_every_alert_fires_in_a_case_and_is_silent_in_another() -> None:
    cases = yaml.safe_load(CASES.read_text(encoding="utf-8"))
    checks = [check for case in cases["tests"] for check in case["alert_rule_test"]]
    fires = {check["alertname"] for check in checks if check.get("exp_alerts")}
    silent = {check["alertname"] for check in checks if not check.get("exp_alerts")}
    assert fires == silent == alerts()


def test_the_cases_hold() -> None:
    run("promtool", "test", "rules", CASES)


def test_prometheus_takes_its_configuration(tmp_path: Path) -> None:
    for path in (PROMETHEUS / "prometheus.yaml", *RULES):
        text = path.read_text(encoding="utf-8")
        (tmp_path / path.name).write_text(text.replace("/etc/prometheus", str(tmp_path)))
    run("promtool", "check", "config", tmp_path / "prometheus.yaml")


def test_alertmanager_takes_its_configuration() -> None:
    run("amtool", "check-config", PROMETHEUS / "alertmanager.yaml")
