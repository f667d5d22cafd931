"""TensorBoard's event files: one event an update, whatever the number of values."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, final

from tensorboard.compat.proto import event_pb2, summary_pb2, tensor_pb2, types_pb2
from tensorboard.plugins.custom_scalar import metadata as custom_scalars
from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2, summary_v2
from tensorboard.plugins.hparams import metadata as hparams
from tensorboard.plugins.text import metadata as text
from tensorboard.summary.writer.record_writer import RecordWriter

from pgkit.loggers.layout import custom_scalars_layout, place, with_intervals

RESULTS = {"env_steps": ("return_mean_100", "solved_at_steps"), "samples": ("objective", "samples_to_target")}
"""The results that the HParams page shows, by what the steps of a run count."""


@final
class EventFile:
    """One event file in a folder of its own, which TensorBoard shows as a run.

    Records are written where they arise: TensorBoard's own queue and thread would report a full disk from a thread
    that nobody reads, and keep up to two minutes of a killed run to themselves.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        # Microseconds, so that two files of one second differ; the name's first part is what TensorBoard sorts by.
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        self._file = (folder / name).open("xb")
        self._records = RecordWriter(self._file)
        self.add(
            event_pb2.Event(file_version="brain.Event:2", source_metadata=event_pb2.SourceMetadata(writer="pgkit"))
        )

    def add(self, event: event_pb2.Event) -> None:
        """Writes one event, dated now, and hands it to the operating system."""
        event.wall_time = time.time()
        self._records.write(event.SerializeToString())
        self._records.flush()

    def close(self) -> None:
        """Closes the file; it is complete."""
        self._file.close()


@final
class TensorBoardLogger:
    """Writes scalars over what `axis` names (`env_steps`, `samples`), a page layout, the configuration, a HParams row.

    Tags that name one of several, as `panel/zero/snr`, go to a sub-run each (`pgkit.loggers.layout.place`), made when
    the first value comes: TensorBoard colours by run and not by tag. What has an interval, `_low` and `_high`, is
    written again as `_point` while the interval is known: TensorBoard draws no interval unless all three have the same
    steps.
    """

    def __init__(self, *, folder: Path, tags: Sequence[str], axis: str) -> None:
        self._folder = folder
        self._files = {"": EventFile(folder)}
        self._step = 0
        self._intervals = with_intervals(tags)
        self._results = RESULTS.get(axis, ())
        self._name = f"{folder.name} ({folder.absolute().parent.name})"
        layout = custom_scalars_layout(tags).SerializeToString()
        self._add_tensor(custom_scalars.CONFIG_SUMMARY_TAG, layout, custom_scalars.create_summary_metadata())

    def write(self, metrics: Mapping[str, float | None], *, step: int) -> None:
        """Records the metrics of one update as one event, and one in every sub-run; what is None is left out."""
        self._step = step
        values: dict[str, list[summary_pb2.Summary.Value]] = {"": []}
        bounded = [
            tag for tag in self._intervals if None not in (metrics.get(f"{tag}_low"), metrics.get(f"{tag}_high"))
        ]
        points = {f"{tag}_point": metrics[tag] for tag in bounded}
        for tag, number in {**metrics, **points}.items():
            if number is not None:
                run, name = place(tag)
                values.setdefault(run, []).append(summary_pb2.Summary.Value(tag=name, simple_value=number))
        for run, numbers in values.items():
            if run not in self._files:
                self._files[run] = EventFile(self._folder / run)
            self._add_summary(summary_pb2.Summary(value=numbers), run)

    def start(self, config: Mapping[str, Any], *, overridden: Collection[str] = ()) -> None:
        """Records the resolved configuration, flat: a table on the Text page, a row of the HParams page.

        Keys in `overridden` come first there, as TensorBoard shows five columns until it is asked for more.
        """
        table = [
            "| key | value |",
            "| --- | --- |",
            *(f"| `{key}` | `{_text(value)}` |" for key, value in config.items()),
        ]
        self._add_tensor("configuration", "\n".join(table).encode(), text.create_summary_metadata(None, None))
        # Numbers and truth values stay what they are; anything else is shown as text.
        row = {key: value if isinstance(value, bool | int | float) else _text(value) for key, value in config.items()}
        columns = [api_pb2.HParamInfo(name=key, differs=key in overridden) for key in row]
        names = {name: api_pb2.MetricName(tag=f"result/{name}") for name in self._results}
        metrics = [api_pb2.MetricInfo(name=tag, display_name=name) for name, tag in names.items()]
        experiment = api_pb2.Experiment(hparam_infos=columns, metric_infos=metrics)
        self._add_hparams(hparams.EXPERIMENT_TAG, plugin_data_pb2.HParamsPluginData(experiment=experiment))
        # Equal rows are merged by this name, so it holds what makes a run: its own folder and the sweep's.
        self._add_summary(summary_v2.hparams_pb(row, trial_id=self._name))

    def finish(self, results: Mapping[str, float | None], *, status: str) -> None:
        """Records the results of the run at its last step; those in RESULTS show on the HParams page."""
        self.write({f"result/{name}": value for name, value in results.items()}, step=self._step)
        outcome = api_pb2.STATUS_SUCCESS if status == "finished" else api_pb2.STATUS_FAILURE
        end = plugin_data_pb2.SessionEndInfo(status=outcome, end_time_secs=time.time())
        self._add_hparams(hparams.SESSION_END_INFO_TAG, plugin_data_pb2.HParamsPluginData(session_end_info=end))

    def close(self) -> None:
        """Closes the event files; they are complete."""
        for file in self._files.values():
            file.close()

    def _add_hparams(self, tag: str, content: plugin_data_pb2.HParamsPluginData) -> None:
        metadata = hparams.create_summary_metadata(content)
        value = summary_pb2.Summary.Value(tag=tag, metadata=metadata, tensor=hparams.NULL_TENSOR)
        self._add_summary(summary_pb2.Summary(value=[value]))

    def _add_tensor(self, tag: str, content: bytes, metadata: summary_pb2.SummaryMetadata) -> None:
        tensor = tensor_pb2.TensorProto(dtype=types_pb2.DT_STRING, string_val=[content])
        value = summary_pb2.Summary.Value(tag=tag, metadata=metadata, tensor=tensor)
        self._add_summary(summary_pb2.Summary(value=[value]))

    def _add_summary(self, summary: summary_pb2.Summary, run: str = "") -> None:
        self._files[run].add(event_pb2.Event(step=self._step, summary=summary))


def _text(value: object) -> str:
    """Returns a value as a command line would have it, and as one cell of a table."""
    plain = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return plain.replace("|", "\\|")
