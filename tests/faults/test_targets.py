"""No class or function outside the allowlist is imported or called, wherever its name comes from."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from pgkit.config import build, check, compose
from pgkit.errors import UsageError
from pgkit.schema.overrides import trusted_packages

PAYLOADS = {
    "os.system": {"command": "touch canary"},
    "os.mkdir": {"path": "canary"},
    "pathlib.Path.touch": {"self": "canary"},
    "pathlib.Path.write_text": {"self": "canary", "data": "x"},
    "builtins.open": {"file": "canary", "mode": "w"},
    "builtins.eval": {},
    "subprocess.Popen": {"args": ["touch", "canary"]},
    "shutil.copy": {"src": "/etc/hostname", "dst": "canary"},
    "torch.load": {"f": "canary"},
    "torch.save": {"obj": 1, "f": "canary"},
    "torch.nn.functional.torch.load": {"f": "canary"},
    "torch.nn.functional.torch.save": {"obj": 1, "f": "canary"},
    "torch.nn.modules.module.torch.save": {"obj": 1, "f": "canary"},
    "torch.optim.os.system": {"command": "touch canary"},
    "torch.nn.functional.importlib.import_module": {"name": "antigravity"},
    "torch.nn.functional.relu": {"input": 1},
    "torch.optim.lr_scheduler.partial": {},
    "torch.optimizer.Adam": {},
    "pgkit.config.os.system": {"command": "touch canary"},
    "pgkit.config.Path": {},
    "pgkit.config.importlib.import_module": {"name": "antigravity"},
    "pgkit.app.os.system": {"command": "touch canary"},
    "pgkit.app.sys.exit": {},
    "pgkit.config.compose": {"config_name": "train", "overrides": []},
    "pgkitten.Mean": {},
    "": {},
}


@pytest.fixture(autouse=True)
def nothing_ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    yield
    assert not (tmp_path / "canary").exists() and "antigravity" not in sys.modules


def refused(*overrides: str, folders: tuple[Path, ...] = ()) -> str:
    with pytest.raises(UsageError) as caught:
        check(compose("train", overrides, config_dirs=folders), trusted=trusted_packages(overrides))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("target", PAYLOADS)
def test_a_payload_is_never_built(target: str) -> None:
    with pytest.raises(UsageError):
        build({"_target_": target, **PAYLOADS[target]}, expects=object)


@pytest.mark.parametrize("target", [name for name in PAYLOADS if not name.startswith(("torch.nn.", "torch.optim."))])
def test_a_payload_is_refused_without_torch(target: str) -> None:
    typed = [f"baseline._target_={target or 'null'}"]
    assert refused(*typed, *(f"+baseline.{key}=1" for key in PAYLOADS[target])).startswith("baseline.")


@pytest.mark.parametrize(
    "typed",
    [
        "env.kwargs._target_=os.system",
        "env.kwargs={wrapper: {_target_: os.system, command: touch canary}}",
        "policy.hidden_sizes=[{_target_: os.system}]",
        "logger.csv={_target_: os.system, command: touch canary}",
        "+logger.mine={_target_: os.system, command: touch canary}",
        "+diagnostics.mine._target_=os.system",
        "+evaluation._target_=os.system",
        "+_target_=os.system",
        "baseline._target_=${device}.system",
        "baseline._target_='${oc.env:HOME}'",
        "baseline._target_='${oc.decode:os}'",
        "baseline._target_=[os.system]",
        "baseline={_target_: os.system}",
        "+baseline._partial_=true",
        "+baseline._args_=[1]",
        "+env.kwargs._convert_=all",
        "+baseline._recursive_=false",
        "+hydra.callbacks.mine={_target_: os.system}",
        "hydra.launcher._target_=os.system",
        "hydra.sweeper._target_=os.system",
        "+hydra.job_logging.handlers.mine.class=os.system",
        "+hydra.job_logging.handlers.mine={'()': os.system}",
        "+hydra.job_logging.handlers.mine.stream=ext://mine.x",
    ],
)
def test_no_corner_of_the_configuration_takes_a_class(typed: str) -> None:
    refused(typed)


def test_nested_targets_are_not_built_either() -> None:
    nested = {"_target_": "os.system", "command": "touch canary"}
    node = {"_target_": "torch.nn.Identity", "inner": [{"deep": nested}]}
    with pytest.raises(UsageError, match="_target_ inside"):
        build(node, expects=object)
    with pytest.raises(UsageError, match="_partial_ inside"):
        build({"_target_": "torch.nn.Identity", "_partial_": True}, expects=object)


@pytest.mark.parametrize(
    "content",
    [
        "baseline: {_target_: os.system, command: touch canary}",
        "hydra: {callbacks: {mine: {_target_: os.system, command: touch canary}}}",
        "env: {kwargs: {_target_: os.system, command: touch canary}}",
        "trusted_packages: [os]\nbaseline: {_target_: os.system, command: touch canary}",
    ],
)
def test_a_file_of_the_users_takes_no_class_either(content: str, tmp_path: Path) -> None:
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "experiment" / "bad.yaml").write_text(f"# @package _global_\n{content}\n")
    refused("experiment=bad", folders=(tmp_path / "mine",))


def test_trust_comes_from_the_command_line_alone(tmp_path: Path) -> None:
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    file = tmp_path / "mine" / "experiment" / "trusting.yaml"
    file.write_text("# @package _global_\ntrusted_packages: [plugin]\n")
    said = refused("experiment=trusting", folders=(tmp_path / "mine",))
    assert said == f"trusted_packages: ['plugin'] from a file, expected on the command line alone (in {file})"
    typed = ["experiment=trusting", "trusted_packages=[plugin]"]
    config = check(compose("train", typed, config_dirs=(tmp_path / "mine",)), trusted=trusted_packages(typed))
    assert list(config.trusted_packages) == ["plugin"]


@pytest.mark.parametrize("typed", ["trusted_packages=plugin", "trusted_packages=['']", "trusted_packages=['os.']"])
def test_trust_names_packages(typed: str) -> None:
    with pytest.raises(UsageError, match=r"trusted_packages: .*, expected a list of package names"):
        trusted_packages([typed])


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    source = (
        "from os import system\nfrom pathlib import Path\n\n"
        "class Mine:\n    def __init__(self, *, size: int, extra: object = None) -> None:\n"
        "        if size < 1:\n            raise ValueError(f'size: {size}, expected at least 1')\n"
        "        self.size = size\n"
    )
    (tmp_path / "trustworthy.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "trustworthy", raising=False)
    return "trustworthy"


def test_a_trusted_package_gives_its_own_classes_alone(plugin: str) -> None:
    with pytest.raises(UsageError):
        build({"_target_": f"{plugin}.Mine", "size": 1}, expects=object)
    assert plugin not in sys.modules
    assert build({"_target_": f"{plugin}.Mine", "size": 3}, expects=object, trusted=[plugin]).size == 3
    for name, keys in (("system", {"command": "touch canary"}), ("Path", {}), ("sys", {}), ("Nothing", {})):
        with pytest.raises(UsageError, match="is no class of"):
            build({"_target_": f"{plugin}.{name}", **keys}, expects=object, trusted=[plugin])


@pytest.mark.parametrize(
    ("keys", "runtime", "said"),
    [
        ({"size": 0}, {}, "size: 0, expected at least 1"),
        ({}, {}, "missing a required argument: 'size'"),
        ({"size": 1, "sise": 2}, {}, "unexpected keyword argument 'sise'"),
        ({"size": 1, "extra": 2}, {"extra": 3}, "extra: set in the configuration, expected to be left to the program"),
    ],
)
def test_what_a_constructor_refuses_names_the_node(
    plugin: str, keys: dict[str, int], runtime: dict[str, int], said: str
) -> None:
    config = OmegaConf.create({"policy": {"_target_": f"{plugin}.Mine", **keys}})
    with pytest.raises(UsageError, match=said) as caught:
        build(config.policy, expects=object, trusted=[plugin], **runtime)
    assert str(caught.value).startswith("policy")


def test_an_object_must_be_what_its_group_expects() -> None:
    with pytest.raises(UsageError, match=r"pgkit.baselines.constant.Zero, expected a class with the methods of Logger"):
        from pgkit.protocols import Logger

        build({"_target_": "pgkit.baselines.constant.Zero"}, expects=Logger)
