"""What TensorBoard finds in the event file."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.compat.proto import event_pb2
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import api_pb2, metadata

from pgkit.loggers.layout import FIRST, LAST, custom_scalars_layout, place
from pgkit.loggers.tensorboard import TensorBoardLogger
from pgkit.protocols import Logger
from tests.fabricated import fabricate

TAGS = ("time/steps_per_second", "return/mean", "critic/loss", "gradient/snr", "gradient/norm")


def read(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0}).Reload()


def events(folder: Path) -> list[event_pb2.Event]:
    (path,) = folder.glob("*tfevents*")
    return list(EventFileLoader(str(path)).Load())


def test_it_is_a_logger(tmp_path: Path) -> None:
    assert isinstance(TensorBoardLogger(folder=tmp_path, tags=TAGS, axis="env_steps"), Logger)


def test_values_lie_over_environment_steps_and_none_leaves_a_gap(tmp_path: Path) -> None:
    logger = TensorBoardLogger(folder=tmp_path, tags=TAGS, axis="env_steps")
    logger.write({"return/mean": 1.5, "gradient/snr": None}, step=64)
    logger.write({"return/mean": 2.5, "gradient/snr": -0.25}, step=200)
    assert [(p.step, p.value) for p in read(tmp_path).Scalars("return/mean")] == [(64, 1.5), (200, 2.5)]
    assert [(p.step, p.value) for p in read(tmp_path).Scalars("gradient/snr")] == [(200, -0.25)]


def test_an_update_is_one_event_and_is_on_disk_at_once(tmp_path: Path) -> None:
    logger = TensorBoardLogger(folder=tmp_path, tags=TAGS, axis="env_steps")
    before = len(events(tmp_path))
    logger.write(dict.fromkeys(TAGS, 1.0), step=1)
    assert len(events(tmp_path)) == before + 1


def test_a_value_that_is_unknown_takes_no_room(tmp_path: Path) -> None:
    logger = TensorBoardLogger(folder=tmp_path, tags=TAGS, axis="env_steps")
    logger.write({"return/mean": 1.0, "gradient/snr": None}, step=1)
    assert [value.tag for value in events(tmp_path)[-1].summary.value] == ["return/mean"]


def test_points_beyond_ten_thousand_are_kept(tmp_path: Path) -> None:
    logger = TensorBoardLogger(folder=tmp_path, tags=TAGS, axis="env_steps")
    for step in range(10_500):
        logger.write({"return/mean": float(step)}, step=step)
    logger.close()
    assert len(read(tmp_path).Scalars("return/mean")) == 10_500


def layout(folder: Path) -> layout_pb2.Layout:
    (stored,) = read(folder).Tensors("custom_scalars__config__")
    return layout_pb2.Layout.FromString(stored.tensor_proto.string_val[0])


def test_the_layout_opens_on_the_gradient_and_ends_with_time(tmp_path: Path) -> None:
    TensorBoardLogger(folder=tmp_path, tags=TAGS, axis="env_steps").close()
    assert [section.title for section in layout(tmp_path).category] == ["Gradient", "Return", "Critic", "Time"]


def drawn(tags: tuple[str, ...]) -> list[list[str]]:
    """Returns the tags of every chart; those of lines are patterns, anchored."""
    charts = [chart for section in custom_scalars_layout(tags).category for chart in section.chart]
    lines = [[pattern.removeprefix("^").removesuffix("$") for pattern in chart.multiline.tag] for chart in charts]
    margins = [[end for each in c.margin.series for end in (each.value, each.lower, each.upper)] for c in charts]
    return [a + b for a, b in zip(lines, margins, strict=True)]


@pytest.mark.parametrize("tags", [TAGS, ("gradient/snr",), ("own/thing", "time/own"), ("critic_lag/value_ratio",), ()])
def test_every_tag_is_in_one_chart_and_no_chart_is_empty(tags: tuple[str, ...]) -> None:
    charts = drawn(tags)
    assert sorted(tag for chart in charts for tag in chart) == sorted(tags)
    assert all(charts)


PANEL = tuple(
    f"panel/{name}/{quantity}" for name in ("zero", "gae_0.95") for quantity in ("snr", "snr_low", "snr_high")
)


def test_one_chart_overlays_the_estimators_and_another_has_their_intervals() -> None:
    assert drawn(PANEL) == [["panel/snr"], ["panel/snr_point", "panel/snr_low", "panel/snr_high"]]


@pytest.mark.parametrize(
    ("tag", "expected"),
    [
        ("panel/gae_0.95/snr", ("panel/gae_0.95", "panel/snr")),
        ("layers/body.0.weight/snr", ("layers/body.0.weight", "layers/snr")),
        ("gradient/snr", ("", "gradient/snr")),
        ("panel/../snr", ("", "panel/../snr")),
        ("a/b/c/d", ("", "a/b/c/d")),
    ],
)
def test_a_tag_that_names_one_of_several_has_a_sub_run_inside_the_folder(tag: str, expected: tuple[str, str]) -> None:
    assert place(tag) == expected


def test_estimators_are_sub_runs_with_one_event_an_update(tmp_path: Path) -> None:
    logger = TensorBoardLogger(folder=tmp_path, tags=(*TAGS, *PANEL), axis="env_steps")
    logger.write({"panel/zero/snr": 0.25, "panel/gae_0.95/snr": None}, step=64)
    logger.write({"panel/zero/snr": 0.5, "panel/zero/snr_low": 0.1, "panel/zero/snr_high": 0.9}, step=128)
    logger.close()
    zero = read(tmp_path / "panel" / "zero")
    assert [(p.step, p.value) for p in zero.Scalars("panel/snr")] == [(64, 0.25), (128, 0.5)]
    assert len(events(tmp_path / "panel" / "zero")) == 3  # the first names the version of the format
    assert not (tmp_path / "panel" / "gae_0.95").exists()


def test_the_points_of_an_interval_chart_have_the_steps_of_its_ends(tmp_path: Path) -> None:
    test_estimators_are_sub_runs_with_one_event_an_update(tmp_path)
    zero = read(tmp_path / "panel" / "zero")
    for end in ("point", "low", "high"):
        assert [p.step for p in zero.Scalars(f"panel/snr_{end}")] == [128]


def test_the_pages_come_in_the_order_in_which_they_are_read(tmp_path: Path) -> None:
    fabricate(tmp_path / "run")
    titles = [section.title for section in layout(tmp_path / "run").category]
    assert titles[: len(FIRST)] == [title for title, _ in FIRST] and titles[-1] == "Time"


def test_the_layout_names_only_tags_that_the_metrics_page_defines() -> None:
    page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")
    defined = re.findall(r"`([a-z_]+/[^`]+)`", page)
    defined = [place(tag.replace("<", "").replace(">", ""))[1] for tag in defined]
    areas = {tag.partition("/")[0] for tag in defined}
    named = [tag for _, charts in (*FIRST, *LAST) for chart in charts for tag in chart.tags]
    assert {"panel", "dial", "gradient", "return", "time"} <= areas
    assert [tag for tag in named if tag.partition("/")[0] in areas and tag not in defined] == []


def finished(folder: Path, *, status: str = "finished") -> EventAccumulator:
    logger = TensorBoardLogger(folder=folder, tags=TAGS, axis="env_steps")
    logger.start({"seed": 3, "optimizer.lr": 0.01, "clip": None, "sizes": [64, 64], "on": True}, overridden={"seed"})
    logger.write({"return/mean": 7.0}, step=128)
    logger.finish({"return_mean_100": 6.5, "solved_at_steps": None}, status=status)
    logger.close()
    return read(folder)


def hparams(events: EventAccumulator) -> dict[str, bytes]:
    return {
        tag: events.SummaryMetadata(tag).plugin_data.content for tag in events.Tags()["tensors"] if "hparams" in tag
    }


def test_the_hparams_row_holds_the_configuration(tmp_path: Path) -> None:
    start = metadata.parse_session_start_info_plugin_data(hparams(finished(tmp_path))[metadata.SESSION_START_INFO_TAG])
    assert start.hparams["seed"].number_value == 3
    assert start.hparams["optimizer.lr"].number_value == 0.01
    assert start.hparams["clip"].string_value == "null"
    assert start.hparams["sizes"].string_value == "[64, 64]"
    assert start.hparams["on"].bool_value is True


def test_the_hparams_page_shows_results_and_puts_what_was_set_first(tmp_path: Path) -> None:
    experiment = metadata.parse_experiment_plugin_data(hparams(finished(tmp_path))[metadata.EXPERIMENT_TAG])
    assert [info.name.tag for info in experiment.metric_infos] == ["result/return_mean_100", "result/solved_at_steps"]
    assert [info.name for info in experiment.hparam_infos if info.differs] == ["seed"]


@pytest.mark.parametrize(
    ("status", "expected"), [("finished", api_pb2.STATUS_SUCCESS), ("interrupted", api_pb2.STATUS_FAILURE)]
)
def test_the_hparams_row_says_how_the_run_ended(tmp_path: Path, status: str, expected: int) -> None:
    content = hparams(finished(tmp_path, status=status))[metadata.SESSION_END_INFO_TAG]
    assert metadata.parse_session_end_info_plugin_data(content).status == expected


def test_results_add_no_point_to_any_curve(tmp_path: Path) -> None:
    events = finished(tmp_path)
    assert [(p.step, p.value) for p in events.Scalars("return/mean")] == [(128, 7.0)]
    assert [(p.step, p.value) for p in events.Scalars("result/return_mean_100")] == [(128, 6.5)]
    assert "result/solved_at_steps" not in events.Tags()["scalars"]


def test_the_text_page_shows_the_configuration_as_a_table(tmp_path: Path) -> None:
    logger = TensorBoardLogger(folder=tmp_path, tags=TAGS, axis="env_steps")
    logger.start({"env.id": "A-v0", "update.max_grad_norm": None, "env.kwargs": "a|b"})
    (stored,) = read(tmp_path).Tensors("configuration")
    lines = stored.tensor_proto.string_val[0].decode().splitlines()
    assert lines[:2] == ["| key | value |", "| --- | --- |"]
    assert lines[2:] == ["| `env.id` | `A-v0` |", "| `update.max_grad_norm` | `null` |", r"| `env.kwargs` | `a\|b` |"]


def test_rows_of_different_sweeps_do_not_merge(tmp_path: Path) -> None:
    groups = set()
    for sweep in ("one", "two"):
        (tmp_path / sweep / "seed=0").mkdir(parents=True)
        content = hparams(finished(tmp_path / sweep / "seed=0"))[metadata.SESSION_START_INFO_TAG]
        groups.add(metadata.parse_session_start_info_plugin_data(content).group_name)
    assert groups == {"seed=0 (one)", "seed=0 (two)"}


def test_the_import_brings_neither_torch_nor_tensorflow() -> None:
    code = "import sys, pgkit.loggers.tensorboard; sys.exit(bool({'torch', 'tensorflow'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
