"""What the documents say is there, is there: links, options, tags and the Python example."""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "docs/metrics.md",
    "docs/variance_reduced.md",
    "docs/dashboard.md",
    "docs/environments.md",
    "docs/policies.md",
    "docs/parallel.md",
    "docs/vi.md",
    "docs/blackbox.md",
    "docs/off_policy.md",
    "docs/off_policy_evaluation.md",
    "experiments/off_policy_evaluation/README.md",
    *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs" / "agents").glob("*.md")),
    "experiments/README.md",
    "experiments/benchmark/README.md",
)
AREAS = (
    "return|episode|gradient|policy|baseline|critic|update|time|steps|truth|step_decomposition|trajectory_decomposition"
    "|halves|noise_scale|scores|optimizer_step|fisher|control_variate|behavior|reuse"
)
TAG = re.compile(rf"(?:{AREAS})/[a-z_0-9]+")


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def dead_links(text: str, folder: Path) -> list[str]:
    """Returns the relative links that lead nowhere."""
    targets = re.findall(r"\]\(([^)\s#]+)[^)]*\)", text)
    return [target for target in targets if "://" not in target and not (folder / target).exists()]


def row_of(group: str, text: str) -> str:
    """Returns the lines of tables that begin with a group's name, joined."""
    return "\n".join(line for line in text.splitlines() if line.startswith(f"| `{group}` |"))


def logged_tags() -> set[str]:
    """Returns every literal in the package that has the form of a tag."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "pgkit").rglob("*.py")]
    words = {node.value for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    return {word for word in words if isinstance(word, str) and TAG.fullmatch(word)}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_no_link_is_dead(name: str) -> None:
    assert not dead_links(read(name), (ROOT / name).parent)


def test_the_search_for_dead_links_bites() -> None:
    assert dead_links("[a](nowhere.md#part)", ROOT) == ["nowhere.md"]
    assert not dead_links("[a](README.md#part) [b](https://example.org/x)", ROOT)


def test_the_readme_lists_every_option() -> None:
    text = read("README.md")
    # Agents have a table of their own, and what lies under hydra/ is chosen by the root file alone.
    folders = [
        path for path in sorted((ROOT / "conf").iterdir()) if path.is_dir() and path.name not in ("agent", "hydra")
    ]
    missing = [
        f"{folder.name}={option.stem}"
        for folder in folders
        for option in sorted(folder.glob("*.yaml"))
        if f"`{option.stem}`" not in row_of(folder.name, text)
    ]
    agents = sorted(path.stem for path in (ROOT / "conf" / "agent").glob("*.yaml"))
    missing += [name for name in agents if not row_of(f"agent={name}", text)]
    assert folders and not missing, f"the README does not list {', '.join(missing)}"


def test_the_metrics_page_defines_every_tag_and_no_other() -> None:
    page = read("docs/metrics.md").partition("## The names that others use")[0]
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    defined = {tag for row in rows for tag in TAG.findall(row)}
    assert defined == logged_tags(), f"differing: {sorted(defined ^ logged_tags())}"


def example(number: int) -> str:
    """Returns what a Python example of the README prints."""
    code = re.findall(r"```python\n(.*?)```", read("README.md"), flags=re.DOTALL)[number]
    command = [sys.executable, "-c", "import torch; torch.manual_seed(0)\n" + code]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_readme_trains_a_network_of_ones_own(tmp_path: Path) -> None:
    section = read("README.md").partition("## A network of your own")[2]
    (tmp_path / "mynets.py").write_text(section.partition("```python\n")[2].partition("```")[0], encoding="utf-8")
    line = next(line.strip() for line in section.splitlines() if line.startswith("    python -m"))
    command = [sys.executable, *shlex.split(line)[1:], "total_steps=500", "evaluation.episodes=0"]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    (config,) = tmp_path.glob("runs/*/*/*/.hydra/config.yaml")
    assert "_target_: mynets.Gated" in config.read_text(encoding="utf-8")


def test_the_readme_example_estimates_a_gradient_within_its_error_bar() -> None:
    mean, error = (float(number) for number in re.findall(r"-?[0-9.]+", example(0)))
    assert abs(mean - 2) < 3 * error < 0.3


def test_the_readme_example_shows_that_a_baseline_lowers_the_variance() -> None:
    zero, half_way = (float(number) for number in re.findall(r"per_sample_variance=([0-9.e-]+)", example(1)))
    assert half_way < 0.5 * zero
