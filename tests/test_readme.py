"""The README's examples run, and print what it says they print."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```$", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def test_there_are_examples():
    assert len(BLOCKS) >= 3


@pytest.mark.parametrize("code", BLOCKS)
def test_example(code, capsys):
    if "import torch" in code:
        pytest.importorskip("torch")
    exec(compile(code, str(README), "exec"), {})
    # Comment lines at the end of a block are what it prints.
    said = re.search(r"((?:^# .*\n)*)\Z", code, re.MULTILINE).group(1).replace("# ", "")
    assert capsys.readouterr().out == said
