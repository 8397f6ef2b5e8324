"""The soak: it passes, it repeats itself, and it sees what is wrong."""

import numpy as np
import pytest

import nbfagg
from nbfagg import cli, promises, soak
from nbfagg.soak import memory, rounds
from nbfagg.soak.calls import Failure, Tally


def test_rounds_pass_and_are_the_same_each_time(monkeypatch):
    monkeypatch.setattr(rounds, "FORKS", 0)
    found = []
    for _ in range(2):
        tally = Tally()
        for seed in range(40):
            rounds.play(tally, seed)
        found.append((tally.calls, tally.worst))
    assert found[0] == found[1]
    assert set(tally.calls) == {
        *("fagg", "fagg_packed", "fagg_vjp", "fagg_packed_vjp"),
        *("State.of", "State.merge", "State.finalize", "refused"),
    }
    assert max(tally.worst.values()) <= 1


def play_until_it_fails(rounds_at_most):
    """Give the seed and the message of the first failure."""
    for seed in range(rounds_at_most):
        try:
            rounds.play(Tally(), seed)
        except Failure as failure:
            return seed, str(failure)
    raise AssertionError("nothing failed")


def broken(right, change):
    return lambda *given, **keywords: change(right(*given, **keywords))


def off(result):
    """Move a result by more than is allowed, in place."""
    array = result[0] if isinstance(result, tuple) else result
    if array.size and np.isfinite(array).all():
        array[...] = array * array.dtype.type(1.01) + array.dtype.type(1e-2)
    return result


@pytest.mark.parametrize("name", ["fagg", "fagg_vjp", "fagg_packed", "fagg_packed_vjp"])
def test_a_wrong_result_is_seen(monkeypatch, capsys, name):
    monkeypatch.setattr(rounds, "FORKS", 0)
    monkeypatch.setattr(nbfagg, name, broken(getattr(nbfagg, name), off), raising=False)
    seed, said = play_until_it_fails(60)
    assert said.startswith(f"{name} of ")
    assert "of what is allowed" in said
    assert cli.main(["check", "--soak", "0", "--seed", str(seed)]) == 1
    assert f"FAILED, seed {seed}: " in capsys.readouterr().out


@pytest.mark.parametrize("what", ["finalize", "lse"])
def test_a_wrong_state_is_seen(monkeypatch, what):
    monkeypatch.setattr(rounds, "FORKS", 0)
    if what == "finalize":
        monkeypatch.setattr(nbfagg.State, "finalize", broken(nbfagg.State.finalize, off))
    else:
        right = nbfagg.State.lse.fget
        monkeypatch.setattr(nbfagg.State, "lse", property(lambda self: off(right(self))))
    assert play_until_it_fails(60)[1].startswith("State.of of ")


def test_what_is_not_refused_is_seen(monkeypatch):
    monkeypatch.setattr(rounds, "FORKS", 0)
    monkeypatch.setattr(nbfagg.State, "of", lambda *given, **keywords: None)
    monkeypatch.setattr(rounds, "states", lambda *given: None)
    assert "was not refused" in play_until_it_fails(200)[1]


def test_in_forked_children(monkeypatch):
    monkeypatch.setattr(rounds, "FORKS", 1)
    tally = Tally()
    for seed in range(3):
        rounds.play(tally, seed)
    assert tally.children == 3

    def wrong(*given):
        raise Failure("there")

    monkeypatch.setattr(rounds, "_play", wrong)
    with pytest.raises(Failure, match="in a forked child, which ended with 1: there"):
        rounds.play(tally, 0)


def test_some_seconds_on_threads(capsys):
    assert cli.main(["check", "--soak", "0.03", "--seed", "5"]) == 0
    out = capsys.readouterr().out
    assert "FAILED" not in out
    assert "resident memory: " in out
    assert out.endswith("each call was as promised\n")


def test_a_failure_on_threads_ends_it(monkeypatch, capsys):
    monkeypatch.setattr(rounds, "FORKS", 0)
    monkeypatch.setattr(nbfagg, "fagg", broken(nbfagg.fagg, off), raising=False)
    assert soak.run(5, 3) == 1
    assert "repeats it" in capsys.readouterr().out


@pytest.mark.parametrize(("growth", "code"), [(5.5, 1), (4.0, 0), (None, 0)])
def test_memory_that_grows_is_seen(monkeypatch, capsys, growth, code):
    monkeypatch.setattr(soak, "soak", lambda *_: soak.Report(5.0, 3, Tally(), None, 100.0, growth))
    assert cli.main(["check", "--soak", "5"]) == code
    assert ("memory grew" in capsys.readouterr().out) == bool(code)


def test_resident_memory_is_seen_to_grow():
    watch = memory.Watch()
    watch.look()
    held = np.ones(4 << 20)
    watch.look()
    assert watch.growth > held.nbytes / 2**20 - 4


@pytest.mark.parametrize("minutes", ["-1", "nan", "soon", "inf"])
def test_minutes_are_a_number(minutes):
    assert cli.main(["check", "--soak", minutes]) == 2


def test_half_precision_has_to_be_rounded_rightly():
    exact = np.array([0.1, 0.2], np.longdouble)
    right = exact.astype(np.float16)
    assert promises.share_of_bound(right, exact, "alpha").max() == 0
    wrong = np.nextafter(right, np.float16(1))
    assert np.isinf(promises.share_of_bound(wrong, exact, "alpha")).all()
