"""The schema, read from constructors' source, refuses what the constructors would and nothing else."""

from __future__ import annotations

import difflib
import importlib
import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from omegaconf import OmegaConf

from pgkit.config import check, compose, config_dir
from pgkit.errors import UsageError
from pgkit.options import Count, Fraction, Positive
from pgkit.schema.checks import check_tree
from pgkit.schema.commands import serves
from pgkit.schema.contradictions import CONTRADICTIONS
from pgkit.schema.source import attribute, parameters
from pgkit.schema.values import convert

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = {
    file.stem: [group for entry in OmegaConf.load(file).defaults if entry != "_self_" for group in entry]
    for file in config_dir().glob("*.yaml")
}
"""The groups of every entry point."""
OPTIONS = sorted(path.relative_to(config_dir()).with_suffix("").parts for path in config_dir().glob("*/*.yaml"))
COMPANIONS = {
    "collect=steps": ["critic=value"],
    "collect=torch_steps": ["critic=value"],
    "returns=lambda_return": ["critic=value"],
    "returns=n_step": ["critic=value"],
    "baseline=value": ["critic=value"],
    "env=gym": ["env.id=CartPole-v1"],
    "reuse=window": ["weights=balance"],
    "returns=v_trace": ["critic=value"],
    **{f"returns={name}": ["critic=action_value"] for name in ("retrace", "tree_backup", "q_lambda")},
    "update=pois": ["baseline=zero"],
    "update=enac": ["baseline=zero"],
    "weights=one_step": ["critic=value", "returns=v_trace", "baseline=value"],
    **{f"behavior={name}": ["weights=balance"] for name in ("temperature", "epsilon", "checkpoint", "active")},
}
"""What an option needs of others, so that it stands without a contradiction."""


def command_of(group: str, name: str = "") -> str:
    """Returns the entry point that serves the option, or has the group, and the most other groups."""
    file = config_dir() / group / f"{name}.yaml"
    node = plain(OmegaConf.load(file)) if name else {}
    able = {command: groups for command, groups in COMMANDS.items() if serves(command, group, node)}
    return max((len(groups), command) for command, groups in able.items() if group in groups)[1]


def checked(*overrides: str, folders: tuple[Path, ...] = ()) -> Any:
    return check(compose("train", overrides, config_dirs=folders))


def refused(*overrides: str, folders: tuple[Path, ...] = ()) -> str:
    with pytest.raises(UsageError) as caught:
        checked(*overrides, folders=folders)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def plain(tree: Any) -> dict[str, Any]:
    content = OmegaConf.to_container(tree, resolve=False)
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items()}


def nodes(tree: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields every mapping of a tree that holds plain values, with its dotted name."""
    yield path, tree
    for name, value in tree.items():
        if isinstance(value, dict) and value:
            yield from nodes(value, f"{path}.{name}" if path else name)


def typed(option: tuple[str, ...]) -> list[str]:
    override = "=".join(option)
    return [override, *COMPANIONS.get(override, [])]


def nearness(word: str, other: str) -> float:
    return difflib.SequenceMatcher(None, word, other).ratio()


@pytest.mark.parametrize("option", OPTIONS, ids="=".join)
def test_every_option_of_every_group_stands(option: tuple[str, ...]) -> None:
    command = command_of(*option)
    config = check(compose(command, typed(option)))
    groups = {group for group in COMMANDS[command] if "override" not in group}
    assert set(config) >= groups - {"agent", "experiment", "sweep"}


@pytest.mark.parametrize("option", [("", ""), *OPTIONS], ids="=".join)
def test_every_key_with_one_letter_changed_is_refused_by_its_nearest_name(option: tuple[str, str]) -> None:
    group, name = option
    command = command_of(group, name) if group else "train"
    composed = compose(command, typed(option) if group else [])
    root = plain(OmegaConf.load(config_dir() / f"{command}.yaml"))
    tree = plain(composed)
    tree.pop("hydra")
    files = _files(composed)
    for path, node in list(nodes(tree)):
        of_group = path.partition(".")[0] == group if group else path in ("", "evaluation")
        for key, value in list(node.items()) if of_group and not path.endswith("kwargs") else ():
            if key == "_target_" or (group in ("diagnostics", "logger") and isinstance(value, dict)):
                continue  # the name of an instrument or a logger is the user's to choose
            for position in {0, len(key) // 2, len(key) - 1}:
                letter = next(
                    x for x in "qzxjk" if x not in key and key[:position] + x + key[position + 1 :] not in node
                )
                wrong = key[:position] + letter + key[position + 1 :]
                node[wrong] = value  # beside the right one, as a typo on the command line is
                with pytest.raises(UsageError) as caught:
                    check_tree(tree, root=root, files=files, trusted=())
                del node[wrong]
                said = str(caught.value)
                assert said.startswith(f"{path}.{wrong}: unknown key".lstrip(".")), said
                assert key in said.partition("unknown key")[2], said
                if len(key) >= 4:
                    hint = said.partition("(did you mean ")[2].removesuffix("?)")
                    assert hint and nearness(hint, wrong) >= nearness(key, wrong), said


def _files(composed: Any) -> dict[str, dict[str, Any]]:
    """Returns what the files say that a composition chose, where a group chose one."""
    chosen = composed.hydra.runtime.choices
    single = {group: name for group, name in chosen.items() if isinstance(name, str) and "/" not in group}
    files = {group: config_dir() / group / f"{name}.yaml" for group, name in single.items()}
    contents = {group: plain(OmegaConf.load(file)) for group, file in files.items()}
    return {group: content.get(group, content) for group, content in contents.items()}


def targets() -> dict[str, tuple[str, dict[str, Any]]]:
    """Returns every node of every file under conf/, by the file and the name of the node."""
    found = {}
    for file in sorted(config_dir().glob("*/*.yaml")):
        for path, node in nodes(plain(OmegaConf.load(file))):
            if "_target_" in node:
                name = f"{file.parent.name}/{file.stem}{'.' if path else ''}{path}"
                found[name] = (node["_target_"], {key: value for key, value in node.items() if key != "_target_"})
    return found


@pytest.mark.parametrize("name", targets())
def test_defaults_of_file_and_constructor_are_equal(name: str) -> None:
    target, node = targets()[name]
    module, _, attribute_name = target.rpartition(".")
    signature = inspect.signature(getattr(importlib.import_module(module), attribute_name)).parameters
    assert set(node) <= set(signature)
    if not target.startswith("pgkit."):
        return
    for key, value in node.items():
        default = signature[key].default
        interpolated = isinstance(value, str) and "${" in value
        own = name.startswith(("env/", "problem/"))  # which are many settings of few classes
        assert interpolated or own or default is inspect.Parameter.empty or default == value, key
        assert signature[key].kind is inspect.Parameter.KEYWORD_ONLY
    configurable = {key for key, (_, optional) in parameters(target).items() if optional}
    assert configurable <= set(node), f"not in the file: {configurable - set(node)}"


@pytest.mark.parametrize("name", [name for name, (target, _) in targets().items() if target.startswith("pgkit.")])
def test_the_schema_read_from_source_is_that_of_the_class(name: str) -> None:
    target, _ = targets()[name]
    module, _, attribute_name = target.rpartition(".")
    kind = getattr(importlib.import_module(module), attribute_name)
    hints = inspect.get_annotations(kind.__init__, eval_str=True)
    for key, (annotation, _) in parameters(target).items():
        assert annotation == hints[key]
    for constant, default in (("needs_values", False), ("needs_whole_episodes", False), ("least_columns", 1)):
        assert attribute(target, constant, default) == getattr(kind, constant, default)


@pytest.mark.parametrize(
    ("value", "annotation", "expected"),
    [
        (1e5, Count, 100_000),
        (3, Count, 3),
        (1, Fraction, 1),
        (None, Count | None, None),
        ([1e1, 2], list[Count], [10, 2]),
        ("zero", Literal["zero", "exclude"], "zero"),
        ({"a": [1, {"b": None}]}, dict, {"a": [1, {"b": None}]}),
        ([0.5, 1], tuple[Fraction, Fraction], [0.5, 1]),
    ],
)
def test_a_value_that_fits_is_kept(value: Any, annotation: Any, expected: Any) -> None:
    fitted = convert("key", value, annotation)
    assert fitted == expected and type(fitted) is type(expected)


NUMBERS = [float("nan"), float("inf"), -float("inf")]


@pytest.mark.parametrize(
    ("value", "annotation"),
    [
        *((number, kind) for number in NUMBERS for kind in (float, Count, Fraction, Positive, Any, dict, list)),
        *(({"deep": [number]}, kind) for number in NUMBERS for kind in (dict, Any)),
        (2.5, int),
        (True, int),
        (True, float),
        (1, bool),
        ("1", int),
        ("0.5", Fraction),
        (0, Positive),
        (0, Count),
        (1.0000001, Fraction),
        (-1e-9, Fraction),
        (None, int),
        (3, str),
        ("other", Literal["one"]),
        (1, Literal[True]),
        ([1], tuple[int, int]),
        ([1, "a"], list[int]),
        (1, list[int]),
        ([], dict),
        ("a", Count | None),
    ],
)
def test_a_value_that_does_not_fit_is_refused(value: Any, annotation: Any) -> None:
    with pytest.raises(UsageError, match=r"^key: .*, expected .+"):
        convert("key", value, annotation)


CONTRADICTORY = [
    ("train", "collect.episodes=1 env.num_envs=1", ("collect.episodes", "baseline=leave_one_out")),
    ("train", "collect=steps env.num_envs=1 returns.cut=zero", ("env.num_envs", "baseline=leave_one_out")),
    ("train", "collect.episodes=12", ("collect.episodes", "env.num_envs")),
    ("train", "evaluation.episodes=5", ("evaluation.episodes", "evaluation.num_envs")),
    ("train", "returns=lambda_return", ("critic", "returns=lambda_return")),
    ("train", "returns=n_step", ("critic", "returns=n_step")),
    ("train", "baseline=value", ("critic", "baseline=value")),
    ("train", "collect=steps returns=total", ("collect", "returns=total")),
    ("train", "collect=steps critic=value estimator.discount_states=true", ("collect", "estimator.discount_states")),
    ("train", "collect=steps", ("returns.cut", "collect=steps")),
    ("train", "reuse=window", ("weights", "reuse=window")),
    ("train", "behavior=epsilon", ("weights", "behavior=epsilon")),
    ("train", "returns=v_trace critic=value weights=balance", ("weights", "returns=v_trace")),
    ("train", "returns=retrace critic=value", ("critic", "returns=retrace")),
    ("train", "returns=v_trace critic=action_value", ("critic", "returns=v_trace")),
    ("train", "update=ppo_clip weights=balance", ("weights", "update=ppo_clip")),
    ("train", "update=ppo_clip estimator=all_action", ("estimator", "update=ppo_clip")),
    ("train", "update=ppo_clip estimator=svg", ("estimator", "update=ppo_clip")),
    ("train", "update=ppo_clip estimator=svg0", ("estimator", "update=ppo_clip")),
    ("train", "agent=vtrace collect=torch_steps behavior=epsilon", ("collect", "behavior=epsilon")),
    ("train", "update=storm estimator.control_variate=optimal_layer", ("estimator.control_variate", "update=storm")),
    ("train", "update=pois", ("baseline", "update=pois")),
    ("train", "update=pois baseline=zero collect=steps critic=value", ("collect", "update=pois")),
    ("train", "agent=vpg update=ppo_clip update.minibatches=2000", ("update.minibatches", "collect.steps=128")),
    ("train", "agent=ppo policy=gru update.minibatch_of=steps", ("update.minibatch_of", "policy=gru")),
    ("train", "optimizer=sgd optimizer.nesterov=true", ("optimizer.momentum", "optimizer.nesterov")),
    ("train", "returns=total estimator.discount_states=true", ("estimator.discount_states", "returns=total")),
    ("train", "collect=steps critic=value weights=trajectory", ("collect", "weights=trajectory")),
    ("train", "reuse=window reuse.keep=log_probabilities weights=balance", ("reuse.keep", "weights=balance")),
    ("train", "weights=balance weights.per_decision=true weights.truncate=2", ("weights.truncate", "per_decision")),
    ("fit", "baseline=leave_one_out num_samples=1", ("num_samples", "baseline=leave_one_out")),
]


@pytest.mark.parametrize(("command", "overrides", "both"), CONTRADICTORY)
def test_a_contradiction_names_both_keys(command: str, overrides: str, both: tuple[str, str]) -> None:
    with pytest.raises(UsageError) as caught:
        check(compose(command, overrides.split()))
    said = str(caught.value)
    assert said.startswith(f"{both[0]}: ") and both[1] in said


@pytest.mark.parametrize(
    "overrides",
    [
        "collect.episodes=1 env.num_envs=1 baseline=zero",
        "collect=steps env.num_envs=1 returns.cut=drop baseline=moving_average",
        "collect.episodes=16",
        "agent=vpg",
        "agent=vpg returns=n_step baseline=leave_one_out",
        "collect=steps critic=value",
        "optimizer=sgd optimizer.nesterov=true optimizer.momentum=0.9",
    ],
)
def test_what_goes_together_stands(overrides: str) -> None:
    checked(*overrides.split())


def test_every_contradiction_is_seen_by_some_test() -> None:
    unseen = set(CONTRADICTIONS)
    for command, overrides, _ in CONTRADICTORY:
        tree = plain(compose(command, overrides.split()))
        unseen -= {contradiction for contradiction in CONTRADICTIONS if contradiction(tree)}
    assert not unseen


def test_nothing_but_whole_floats_is_converted() -> None:
    config = checked("total_steps=1e5", "optimizer.lr=1", "seed=7.0")
    assert (config.total_steps, config.seed, config.optimizer.lr) == (100_000, 7, 1)
    assert all(type(value) is int for value in (config.total_steps, config.seed, config.optimizer.lr))
    shipped = plain(compose("train", []))
    shipped.pop("hydra")
    assert plain(checked()) == {
        **shipped,
        "returns": {**shipped["returns"], "gamma": shipped["gamma"]},
        "estimator": {**shipped["estimator"], "gamma": shipped["gamma"]},
        "diagnostics": {
            **shipped["diagnostics"],
            "variance": {**shipped["diagnostics"]["variance"], "every": shipped["diagnostics"]["every"]},
            "panel": {**shipped["diagnostics"]["panel"], "gamma": shipped["gamma"]},
        },
    }


def test_root_keys_are_shared_by_interpolation() -> None:
    config = checked("gamma=0.5", "diagnostics.every=3", "env.kwargs.tag='s${seed}'", "env.kwargs.seed=${seed}")
    assert config.returns.gamma == config.estimator.gamma == 0.5
    assert config.diagnostics.variance.every == 3
    assert config.env.kwargs == {"tag": "s0", "seed": 0}


@pytest.mark.parametrize(
    "override",
    [
        "gamma=${seed}",
        "seed=${seed}",
        "env.num_envs=${collect.episodes}",
        "env.id='${oc.env:HOME}'",
        "env.id='${${seed}}'",
    ],
)
def test_nothing_else_is_interpolated(override: str) -> None:
    assert "interpolation" in refused(override)


def test_a_value_left_open_is_asked_for() -> None:
    assert refused("env=gym") == "env.id: missing, expected a value"


def test_a_group_of_another_command_is_refused_and_told_where_it_belongs() -> None:
    said = refused("problem=sphere")
    assert said.startswith("problem: no group of this command, expected one of env, collect,")
    assert said.endswith("; problem belongs to pgkit.fit and pgkit.verify")


ELSEWHERE = [
    ("train", "estimator=arm", "factorised, q_prop, score_function, svg, svg0; arm belongs to pgkit.fit"),
    ("train", "optimizer=snes", "one of adam, adamw, rmsprop, sgd; snes belongs to pgkit.fit"),
    ("train", "baseline=optimal_parameter", "optimal_time, value, zero; optimal_parameter belongs to pgkit.fit"),
    ("fit", "estimator=score_function", "termwise_score; score_function belongs to pgkit.train"),
    ("fit", "baseline=value", "optimal_parameter, zero; value belongs to pgkit.train"),
    ("verify", "estimator=score_function", "score_function belongs to pgkit.train"),
    ("verify", "optimizer=snes", "which takes no steps; it belongs to pgkit.fit"),
    ("verify", "total_samples=5", "which takes no steps; it belongs to pgkit.fit"),
    ("fit", "env=CartPole", "; env belongs to pgkit.check_env and pgkit.train"),
]


@pytest.mark.parametrize(("command", "override", "said"), ELSEWHERE, ids=[override for _, override, _ in ELSEWHERE])
def test_an_option_of_another_command_is_told_where_it_belongs(command: str, override: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        check(compose(command, [override]))
    assert str(caught.value).endswith(said) and "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{override.partition('=')[0]}: ")


def test_an_option_of_ones_own_is_no_ones_business_but_its_class(tmp_path: Path) -> None:
    (tmp_path / "optimizer").mkdir()
    (tmp_path / "optimizer" / "mine.yaml").write_text("_target_: torch.optim.Adam\nlr: 0.1\n")
    assert checked("optimizer=mine", folders=(tmp_path,)).optimizer.lr == 0.1


@pytest.mark.parametrize("problem", ["conjugate_gaussian", "gym_policy", "rosenbrock", "sphere", "vae"])
def test_verify_takes_the_node_of_a_problem_and_none_of_what_its_file_says_to_fit(problem: str) -> None:
    bare, found = (check(compose("verify", overrides)) for overrides in ([], [f"problem={problem}"]))
    assert set(found) == {*bare, "problem"} and found.problem == check(compose("fit", [f"problem={problem}"])).problem
    assert {key: found[key] for key in bare} == dict(bare)
    typed = check(compose("verify", [f"problem={problem}", "estimator=arm", "num_samples=9"]))
    assert typed.estimator._target_.endswith(".ARM") and typed.num_samples == 9


def test_a_preset_has_no_keys_of_its_own() -> None:
    assert refused("agent.lr=1").startswith("agent.lr: a preset has no keys of its own")


FILES = {
    "loop": ("gamma: ${seed}\nseed: ${gamma}", "seed: the interpolation ${gamma}, expected a plain value (in {file})"),
    "itself": ("gamma: ${gamma}", "gamma: the interpolation ${gamma}, expected a plain value (in {file})"),
    "broken": ("gamma: [1,", "{file}:"),
    "key": ("optimizer:\n  lrr: 1", "optimizer.lrr: unknown key, expected one of betas, eps, fused, lr, weight_decay"),
    "value": ("optimizer:\n  lr: abc", "optimizer.lr: abc, expected a number above 0 (in {file})"),
    "node": ("optimizer: 3", "optimizer: 3, expected a mapping with _target_ (in {file})"),
    "option": (
        "defaults:\n  - override /critic: valu",
        "critic: valu, expected one of action_value, none, recurrent_value, value (did you mean value?)",
    ),
    "group": (
        "defaults:\n  - override /crtic: value",
        "crtic: no group of this command (did you mean critic?) (in experiment/group)",
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_a_mistake_in_a_file_names_the_file(name: str, tmp_path: Path) -> None:
    content, said = FILES[name]
    file = tmp_path / "experiment" / f"{name}.yaml"
    file.parent.mkdir()
    file.write_text(f"# @package _global_\n{content}\n")
    assert refused(f"experiment={name}", folders=(tmp_path,)).startswith(said.replace("{file}", str(file)))


def test_what_is_typed_over_a_file_is_not_blamed_on_it(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "good.yaml").write_text("# @package _global_\ngamma: 0.5\n")
    assert refused("experiment=good", "gamma=2", folders=(tmp_path,)).endswith("at most 1")


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    assert str(tmp_path / "experiment" / "binary.yaml") in refused("experiment=binary", folders=(tmp_path,))


def test_a_group_of_the_users_is_typed_by_its_own_defaults(tmp_path: Path) -> None:
    (tmp_path / "optimizer").mkdir()
    (tmp_path / "optimizer" / "mine.yaml").write_text("_target_: torch.optim.NAdam\nlr: 0.1\nmomentum_decay: 4e-3\n")
    assert checked("optimizer=mine", folders=(tmp_path,)).optimizer.momentum_decay == 0.004
    assert "expected a number" in refused("optimizer=mine", "optimizer.momentum_decay=a", folders=(tmp_path,))
    assert "above 0" in refused("optimizer=mine", "optimizer.lr=0", folders=(tmp_path,))
    assert "did you mean momentum_decay?" in refused("optimizer=mine", "optimizer.momentum_dcay=1", folders=(tmp_path,))


def test_what_the_program_hands_over_is_no_setting() -> None:
    for override in (
        "policy.observation_space=1",
        "critic.generator=1",
        "+logger.csv.tags=[a]",
        "+logger.csv.folder=x",
    ):
        assert "unknown key" in refused(override)


def test_checking_imports_no_torch() -> None:
    code = "import sys; from pgkit.config import *; check(compose('train', [])); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ([], "run: missing, expected a value"),
        (
            ["run=here", "episdes=3"],
            "episdes: unknown key, expected one of episodes, num_envs, run, seed, trajectories, trusted_packages",
        ),
        (["run=here", "episodes=0"], "episodes: 0, expected an integer at least 1"),
        (["run=here", "num_envs=2.5"], "num_envs: 2.5, expected an integer at least 1"),
        (["run=3"], "run: 3, expected a string"),
        (["run=here", "gamma=0.5"], "gamma: unknown key"),
    ],
)
def test_each_entry_point_has_its_own_root(overrides: list[str], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        check(compose("evaluate", overrides))
    assert str(caught.value).startswith(said)
