"""Who is accused where rank 0 could not say it any more, and when nobody is left to test."""

import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from accepted import Made, made, sentences, stored

from commbench.errors import SpecError
from commbench.jobs import accept, supervise, verdict
from commbench.jobs.request import Request
from commbench.measure import launch
from commbench.measure.launch import Launched, Slots

HOSTS = [Slots(f"h{k + 1}", 1) for k in range(4)]
ENDED = Launched(1, ("ssh: Could not resolve hostname h2",), "")


def answering(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Only these hosts start a process."""
    monkeypatch.setattr(supervise, "_knock", lambda net, launcher, host: host.name in names)


def asked(one: Made, folder: Path) -> accept.Asked:
    request = Request(one.spec.sweep, folder, True, created="now", command=(), also=one.spec.also, keep_hosts=True)
    return accept.Asked(one.spec, request)


def test_a_silent_host_is_accused_where_others_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, "h1", "h2", "h4")
    loss = supervise._unseen(ENDED, (), None, "mpirun", HOSTS, began=True)
    assert (loss.fault, loss.hosts, loss.certain) == ("hang", ("h3",), True)


@pytest.mark.parametrize("here", ["elsewhere", "h1"])
def test_where_the_launcher_reaches_nobody_no_host_is_accused(here: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own machine needs no launcher to be reached, so that this one answers says nothing of the others."""
    monkeypatch.setattr(socket, "gethostname", lambda: here)
    answering(monkeypatch, here)
    loss = supervise._unseen(ENDED, (), None, "mpirun", HOSTS, began=False)
    assert (loss.fault, loss.hosts, loss.certain) == ("launch", (), False)
    assert "Could not resolve hostname h2" in loss.sentence


def test_a_test_that_goes_on_where_no_host_is_reached_accuses_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = made().told(ended="budget")
    folder = stored(one, tmp_path / "run")
    answering(monkeypatch)
    started = []
    monkeypatch.setattr(launch, "run", lambda *given: started.append(given) or ENDED)
    why = supervise.start(asked(one, folder), 8, "mpirun", [], lambda line: None)
    assert why.startswith("two launches in a row came to nothing: mpirun reaches no other host: ")
    assert len(started) == 2
    found = verdict.conclude(folder)
    assert (found.word, found.suspects) == ("INCONCLUSIVE", ()), sentences(found)
    assert accept.read(folder).excluded == {}
    assert any(note.startswith("a launch failed: mpirun reaches no other host") for note in found.notes)


def test_a_launch_that_fails_after_the_end_is_not_told_as_mended(tmp_path: Path) -> None:
    one = made()
    folder = stored(one, tmp_path / "run")
    supervise.unlaunched(asked(one, folder), "there is no srun")
    found = verdict.conclude(folder)
    assert (found.word, "a launch failed: there is no srun" in found.notes) == ("PASS", True)


def test_a_test_of_which_every_host_is_left_out_does_not_go_on(tmp_path: Path) -> None:
    one = made(hosts=3).told(ended="budget").asking(exclude=("h1", "h2", "h3"))
    folder = stored(one, tmp_path / "run")
    with pytest.raises(SpecError, match="every host of this test is left out"):
        supervise.start(asked(one, folder), 3, "mpirun", [], lambda line: None)


@pytest.mark.parametrize(("exclude", "lost", "refused"), [
    ("h1 h2 h3", "", True), ("h1 h2", "", False), ("h1 h2", "h3", True), ("", "h1 h2 h3", True),
])  # fmt: skip
def test_a_launch_in_which_nobody_is_left_is_refused(exclude: str, lost: str, refused: bool, tmp_path: Path) -> None:
    one = made(hosts=3).told(excluded=dict.fromkeys(lost.split(), "lost")).asking(exclude=tuple(exclude.split()))
    given = asked(one, stored(one, tmp_path / "run"))
    bench: Any = SimpleNamespace(machine=one.run.machine, request=given.request)
    if refused:
        with pytest.raises(SpecError, match="every host of this launch is left out"):
            accept._refuse(one.spec, bench)
    else:
        accept._refuse(one.spec, bench)
