"""Every agent runs by the commands of its page, and logs what the tables of the page say, line by line."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch

from pgkit.config import config_dir
from pgkit.errors import UsageError
from tests.end_to_end.pages import FOLDER, Page, Row, page_of
from tests.end_to_end.runs import Run, train, watching

AGENTS = sorted(path.stem for path in (config_dir() / "agent").glob("*.yaml"))
PATHWISE = ("svg", "svg0")
"""What takes continuous actions alone."""
BRIEFLY = ("evaluation.episodes=0", "logger=csv")


@dataclass(frozen=True, kw_only=True)
class Logged:
    """The lines of a run, and in which of its batches an episode ended."""

    lines: list[dict[str, str]]
    ended: list[bool] = field(default_factory=list)

    @property
    def tags(self) -> set[str]:
        return set(self.lines[0]) - {"update", "env_steps"}

    def filled(self, tag: str) -> list[bool]:
        """Returns of every line whether it has the tag."""
        return [line[tag] != "" for line in self.lines]

    def above_zero(self, tag: str, index: int) -> bool:
        """Returns whether a line has the tag with a value above 0."""
        value = self.lines[index][tag]
        return value != "" and float(value) > 0

    def holds(self, circumstance: str, tag: str, index: int) -> bool:
        """Returns whether a circumstance of the tables holds for a tag in a line."""
        if circumstance.startswith("every "):
            return index % int(circumstance.removeprefix("every ")) == 0
        if circumstance == "episode ended":
            return any(self.ended[: index + 1]) if tag == "return/mean_100" else self.ended[index]
        if circumstance == "snr > 0":
            beside = {f"{tag.rpartition('/')[0]}/snr"} | ({"panel/current/snr"} if tag.startswith("panel/") else set())
            return all(self.above_zero(other, index) for other in beside)
        if circumstance == "step taken":
            return self.above_zero("update/step_norm", index)
        if circumstance == "in window":
            age = re.fullmatch(r"weights/lag_(\d+)/.*", tag)
            assert age is not None
            return float(self.lines[index]["reuse/batches"]) > int(age[1])
        # One measurement of a short run pools fewer: test_intervals_come_once_64_trajectories_are_pooled.
        return {"64 pooled": False, "never": False}[circumstance]


def run_briefly(folder: Path, command: list[str]) -> tuple[Run, Logged]:
    """Returns a run of a page's command, only shorter, and what it logged."""
    ended: list[bool] = []
    short = ("env.kwargs={max_episode_steps:20}",) if "env=Pendulum" in command else ()
    overrides = [*(word for word in command if not word.startswith("total_steps=")), *short, "total_steps=2500"]
    run = train(folder, *overrides, *BRIEFLY, through=watching(lambda batch: ended.append(bool(batch.returns))))
    return run, Logged(lines=run.metrics, ended=ended)


def faults(rows: dict[str, Row], runs: list[Logged]) -> list[str]:
    """Returns what tables say wrongly of some runs of one agent."""
    found = []
    for logged in runs:
        found += [f"{tag}: logged, and in no table" for tag in logged.tags - rows.keys()]
        found += [f"{tag}: in a table, and not logged" for tag in rows.keys() - logged.tags]
    for row in (row for tag, row in rows.items() if all(tag in logged.tags for logged in runs)):
        exact = [circumstance for circumstance in row.when if circumstance != "21 weights"]
        seen = False
        for logged in runs:
            for index, filled in enumerate(logged.filled(row.tag)):
                due = all(logged.holds(circumstance, row.tag, index) for circumstance in exact)
                seen |= filled
                # Whether a tail is flat is not in the lines: where weights are counted, a blank may be right.
                if filled != due and not (exact != list(row.when) and due):
                    found.append(f"{row.tag}: {'filled' if filled else 'blank'} in line {index + 1}")
        if exact != list(row.when) and not seen:
            found.append(f"{row.tag}: blank throughout")
    return sorted(set(found))


def test_every_agent_has_a_page_and_every_page_an_agent() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.md") if path.stem != "README") == AGENTS


@pytest.mark.parametrize("agent", AGENTS)
def test_a_page_has_its_commands_and_tables(agent: str) -> None:
    page = page_of(agent)
    discrete, continuous = page.commands
    assert all(f"agent={agent}" in command for command in page.commands)
    assert ("env=CartPole" in discrete) == (agent not in PATHWISE)
    assert {"env=LQR", "env=Pendulum"} & set(continuous)
    assert page.text.index("| option, detail | default | origin |") < page.text.index("\n## What it does not do\n")
    assert all(row.unit and row.reading for row in page.rows.values())


@pytest.mark.parametrize("agent", AGENTS)
def test_an_agent_logs_what_its_page_says(tmp_path: Path, agent: str) -> None:
    page, runs = page_of(agent), []
    for number, command in enumerate(page.commands):
        run, logged = run_briefly(tmp_path / str(number), command)
        assert run.summary["status"] == "finished" and run.summary["updates"] == len(logged.lines) >= 3
        assert all(torch.isfinite(tensor).all() for tensor in run.parameters.values())
        assert set(run.parts.update.tags) <= page.own.keys()
        runs.append(logged)
    assert not faults(page.rows, runs)


@pytest.mark.parametrize("agent", PATHWISE)
def test_pathwise_agents_refuse_discrete_actions_by_name(tmp_path: Path, agent: str) -> None:
    with pytest.raises(UsageError, match=rf"^estimator: {agent} with actions Discrete, expected Box"):
        train(tmp_path, "env=CartPole", f"agent={agent}", *BRIEFLY)


def test_intervals_come_once_64_trajectories_are_pooled(tmp_path: Path) -> None:
    overrides = ("agent=reinforce", "env=LQR", "diagnostics.panel.every=1", "total_steps=1920", *BRIEFLY)
    logged = Logged(lines=train(tmp_path, *overrides).metrics)
    ends = [tag for tag, row in page_of("reinforce").rows.items() if "64 pooled" in row.when]
    assert len(ends) == 4 * 5 and len(logged.lines) == 12
    for tag in ends:
        assert logged.filled(tag) == [8 * update >= 64 for update in range(1, 13)], tag


def test_the_search_for_faults_bites() -> None:
    page = Page(commands=[], own={}, rows=page_of("reinforce").rows, text="")
    rows = {tag: page.rows[tag] for tag in ("gradient/snr", "gradient/expected_cosine", "gradient/norm")}
    whole = {"gradient/snr": "2.0", "gradient/expected_cosine": "0.8", "gradient/norm": "1.0"}
    between = {"gradient/snr": "", "gradient/expected_cosine": "", "gradient/norm": "1.0"}
    right = Logged(lines=[whole, between, between])
    assert not faults(rows, [right])
    late = Logged(lines=[whole, whole])
    assert faults(rows, [late]) == [f"gradient/{name}: filled in line 2" for name in ("expected_cosine", "snr")]
    unresolved = Logged(lines=[whole | {"gradient/snr": "-1.0"}])
    assert faults(rows, [unresolved]) == ["gradient/expected_cosine: filled in line 1"]
    assert faults(rows, [Logged(lines=[whole | {"a/b": "1"}])]) == ["a/b: logged, and in no table"]
    unlogged = rows | {"a/b": replace(rows["gradient/norm"], tag="a/b")}
    assert faults(unlogged, [right]) == ["a/b: in a table, and not logged"]
