"""The list of mutations.toml fits sources and tests; the tool tells what is caught from what is not."""

import subprocess
import sys

import mutations
import pytest

LISTED = mutations.mutations()


@pytest.mark.parametrize("mutation", LISTED, ids=lambda mutation: mutation.name)
def test_each_breaks_one_place(mutation):
    text = mutation.broken(mutations.ROOT / "nbfagg")
    assert mutation.new not in ("", mutation.old)
    # What does not even compile is no test of a test.
    compile(text, mutation.file, "exec")


def test_the_named_tests_are_there():
    named = sorted({mutation.test for mutation in LISTED})
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *named]
    found = subprocess.run(command, cwd=mutations.ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr


def test_one_that_is_caught_and_one_that_is_not(capsys):
    (caught,) = (mutation for mutation in LISTED if mutation.name == "a negative scale is taken")
    assert mutations.main(["--only", caught.name]) == 0
    assert "1 of 1 caught" in capsys.readouterr().out
    harmless = caught._replace(new=caught.old + "  # the same")
    outcome = mutations.try_one(harmless)
    assert not outcome.caught
    assert "passed" in outcome.how


def test_what_is_there_no_more(tmp_path):
    (tmp_path / "inputs.py").write_text("twice twice", encoding="utf-8")
    for old, times in (("never", 0), ("twice", 2)):
        gone = mutations.Mutation("gone", "inputs.py", old, "new", "a test")
        with pytest.raises(ValueError, match=f"gone: '{old}' occurs {times} times in inputs.py"):
            gone.broken(tmp_path)


@pytest.mark.parametrize(
    ("code", "printed", "caught", "how"),
    [
        (
            1,
            "F\nFAILED tests/test_x.py::test_y[a b] - assert 1 == 2\n1 failed",
            True,
            "test_y[a b]: assert 1",
        ),
        (-11, "Fatal Python error: Segmentation fault", True, "ended by SIGSEGV"),
        (0, ".\n1 passed in 0.1s", False, "1 passed"),
        (0, "s\nSKIPPED [1] tests/test_x.py\n1 skipped in 0.1s", False, "1 skipped"),
        (2, "ERROR tests/test_x.py\n1 error in 0.1s", False, "1 error"),
        (1, "ERROR tests/test_x.py::test_y - of a fixture\n1 error in 0.1s", False, "1 error"),
        (4, "ERROR: not found: tests/test_x.py::test_z", False, "not found"),
        (None, "", False, "no end"),
    ],
)
def test_verdicts(code, printed, caught, how):
    verdict, said = mutations.judge(code, printed)
    assert verdict == caught
    assert how in said
