"""The table of hazards: each has a test, what was tried is on record, and nbfagg comes through."""

import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from test_benchmarks import module

HERE = Path(__file__).parent
hazards, cases, record = (module(f"figures.{name}") for name in ("hazards", "hazard_cases", "record"))


@pytest.mark.parametrize("hazard", hazards.HAZARDS, ids=lambda hazard: hazard.text)
def test_each_is_guarded_by_a_test(hazard):
    file, name = hazard.test.split("::")
    assert f"\ndef {name}(" in (HERE / file).read_text(encoding="utf-8")
    assert callable(getattr(cases, hazard.case))
    assert set(hazard.libraries) <= set(cases.CALLS)


def test_what_was_tried_is_on_record():
    rows = record.read("hazards")["rows"]
    assert [(row["hazard"], row["test"]) for row in rows] == [(h.text, h.test) for h in hazards.HAZARDS]
    for row, hazard in zip(rows, hazards.HAZARDS, strict=True):
        assert tuple(row["found"]) == hazard.libraries
        said = row["found"]["nbfagg"]
        # A refusal names the argument; Ctrl-C comes when a slice ends.
        assert said in ("right", "TypeError", "ValueError") or said.startswith("after 0."), row


def test_each_breakage_was_noticed():
    rows = record.read("mutations")["rows"]
    assert rows
    assert [row["name"] for row in rows if not row["caught"]] == []


def test_verdicts():
    want = np.array([[0.25, 0.75]])
    assert cases.verdict(want.astype(np.float32), want) == "right"
    assert cases.verdict(want + 0.01, want) == "wrong"
    assert cases.verdict(want + np.nan, want) == "NaN"
    assert cases.verdict(want[0], want) == "wrong"
    assert cases.verdict(want + np.nan, want + np.nan) == "right"


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("os.abort()", "aborts"),
        ("signal.raise_signal(signal.SIGSEGV)", "crashes"),
        ("time.sleep(60)", "hangs"),
        ("print('\"right\"')", "right"),
    ],
)
def test_ends_of_a_process(how, said):
    command = [sys.executable, "-c", f"import os, signal, time; {how}"]
    assert hazards.run(command, {}, limit=2) == said


def test_other_ends():
    assert cases.ended_by(signal.SIGALRM) == "hangs"
    assert cases.ended_by(signal.SIGTERM) == "ended by SIGTERM"
