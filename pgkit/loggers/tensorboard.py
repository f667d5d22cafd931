"""TensorBoard's event file: one event an update, whatever the number of values."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, final

from tensorboard.compat.proto import event_pb2, summary_pb2, tensor_pb2, types_pb2
from tensorboard.plugins.custom_scalar import metadata as custom_scalars
from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2, summary_v2
from tensorboard.plugins.hparams import metadata as hparams
from tensorboard.plugins.text import metadata as text
from tensorboard.summary.writer.record_writer import RecordWriter

from pgkit.loggers.layout import custom_scalars_layout

RESULTS = ("return_mean_100", "solved_at_steps")
STATUS = {"finished": api_pb2.STATUS_SUCCESS, "running": api_pb2.STATUS_RUNNING}


@final
class TensorBoardLogger:
    """Writes scalars over environment steps, a page layout, the configuration, and the row of the HParams page.

    Records are written where they arise: TensorBoard's own queue and thread would report a full disk from a thread
    that nobody reads, and keep up to two minutes of a killed run to themselves.
    """

    def __init__(self, *, folder: Path, tags: Sequence[str]) -> None:
        # Microseconds, so that two files of one second differ; the name's first part is what TensorBoard sorts by.
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        self._file = (folder / name).open("xb")
        self._records = RecordWriter(self._file)
        self._step = 0
        self._add(file_version="brain.Event:2", source_metadata=event_pb2.SourceMetadata(writer="pgkit"))
        layout = custom_scalars_layout(tags).SerializeToString()
        self._add_tensor(custom_scalars.CONFIG_SUMMARY_TAG, layout, custom_scalars.create_summary_metadata())

    def write(self, metrics: Mapping[str, float | None], *, step: int) -> None:
        """Records the metrics of one update as one event; what is None is left out."""
        self._step = step
        value = summary_pb2.Summary.Value
        values = [value(tag=tag, simple_value=number) for tag, number in metrics.items() if number is not None]
        self._add(summary=summary_pb2.Summary(value=values))

    def start(self, config: Mapping[str, Any]) -> None:
        """Records the resolved configuration, flat: a table on the Text page, a row of the HParams page."""
        lines = [f"| {key} | {str(value).replace('|', chr(92) + '|')} |" for key, value in config.items()]
        table = "\n".join(("| key | value |", "| --- | --- |", *lines)).encode()
        self._add_tensor("configuration", table, text.create_summary_metadata(None, None))
        # numbers and truth values stay what they are, anything else is shown as it prints
        row = {
            key: value if isinstance(value, bool | int | float | str) else str(value) for key, value in config.items()
        }
        metrics = [summary_v2.Metric(f"result/{name}", display_name=name) for name in RESULTS]
        self._add(summary=summary_v2.hparams_config_pb([summary_v2.HParam(key) for key in row], metrics))
        self._add(summary=summary_v2.hparams_pb(row))

    def finish(self, results: Mapping[str, float | None], *, status: str) -> None:
        """Records the results of the run at its last step; those named in RESULTS show on the HParams page."""
        self.write({f"result/{name}": value for name, value in results.items()}, step=self._step)
        end = plugin_data_pb2.SessionEndInfo(
            status=STATUS.get(status, api_pb2.STATUS_FAILURE), end_time_secs=time.time()
        )
        content = hparams.create_summary_metadata(plugin_data_pb2.HParamsPluginData(session_end_info=end))
        value = summary_pb2.Summary.Value(
            tag=hparams.SESSION_END_INFO_TAG, metadata=content, tensor=hparams.NULL_TENSOR
        )
        self._add(summary=summary_pb2.Summary(value=[value]))

    def close(self) -> None:
        """Closes the event file; it is complete."""
        self._file.close()

    def _add_tensor(self, tag: str, content: bytes, metadata: summary_pb2.SummaryMetadata) -> None:
        tensor = tensor_pb2.TensorProto(dtype=types_pb2.DT_STRING, string_val=[content])
        value = summary_pb2.Summary.Value(tag=tag, metadata=metadata, tensor=tensor)
        self._add(summary=summary_pb2.Summary(value=[value]))

    def _add(self, **content: Any) -> None:
        event = event_pb2.Event(wall_time=time.time(), step=self._step, **content)
        self._records.write(event.SerializeToString())
        self._records.flush()
