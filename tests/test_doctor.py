"""The house looks after itself: `doctor` tells and tests, and finds what is broken."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from apps.__main__ import main
from core.errors import QuintetError
from core.run import doctor


def test_doctor_tells_what_is_there(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["quintet", "doctor", "--json", "--quick"])
    with pytest.raises(SystemExit) as end:
        main()
    found = json.loads(capfd.readouterr().out)
    assert end.value.code in {0, None}
    assert {"quintet", "python", "device", "threads", "packages", "models", "data", "apps"} <= set(found)
    assert "selftest" not in found and found["packages"]["torch"].startswith("2.")
    assert found["models"]["trajectory-toy"] == "ok" and "sample" in found["apps"]["bio"]


def test_the_self_test_passes() -> None:
    found = doctor.selftest()
    assert set(found) == {"law", "gradient", "checkpoint", "processes"}
    assert not [line for line in found.values() if "FAILED" in line], found


def test_what_is_broken_is_said_and_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "losses", lambda: [1.0, 1.0])
    found = doctor.selftest()
    assert "FAILED: QuintetError: gradient: the loss does not fall" in found["gradient"]
    good = {"packages": {"a": "1.0", "mesh: b": "missing (pip install quintet[mesh])"}, "models": {"m": "ok"}}
    assert doctor.verdict({**good, "apps": {"toy": "train"}, "selftest": {"law": "fine"}}) == []
    wrong = doctor.verdict({"packages": {"a": "missing"}, "models": {"m": "damaged"}, "apps": {"t": "broken: x"}, **{
        "selftest": found}})  # fmt: skip
    assert len(wrong) == 4


def test_a_checkpoint_that_forgets_is_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from core.run import checkpoint

    monkeypatch.setattr(
        checkpoint, "load", lambda path: type("C", (), {"weights": {"w": __import__("torch").zeros(64)}})
    )
    with pytest.raises(QuintetError, match="not what was written"):
        doctor.checkpoint(tmp_path)


def test_an_app_that_cannot_be_imported_is_told() -> None:
    assert doctor.commands("nothing").startswith("broken: No module named")
