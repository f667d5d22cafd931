"""`python -m pgkit.dashboard runs/…`: TensorBoard on this machine alone, opened on the page that pgkit lays out."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
import webbrowser
from pathlib import Path

import pgkit
from pgkit.errors import UsageError

HOST = "127.0.0.1"
"""Never another: whoever reaches TensorBoard reads every run."""
PAGE = "#custom_scalars"


def serve(folder: Path, *, port: int | None = None) -> str:
    """Returns the address of the page, served from now on until this process ends.

    Port 0 takes any free one, None the first free one from 6006 on, which a run names at its end.

    Raises: UsageError for a folder without event files, or a port that is taken.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: is no folder, expected that of a run, or one that holds runs")
    if next(folder.rglob("*tfevents*"), None) is None:
        other = ", or pgkit.report, which reads metrics.csv" if next(folder.rglob("metrics.csv"), None) else ""
        raise UsageError(f"{folder}: holds no event file, expected runs with logger=tensorboard{other}")
    from tensorboard import program

    # TensorFlow is not needed, and that it is missing is no news.
    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    board = program.TensorBoard()
    # Without its data server there is one socket to listen on, and one process to end.
    loading = ("--load_fast", "false", "--reload_interval", "5")
    chosen = () if port is None else ("--port", str(port))
    board.configure(argv=["", "--logdir", str(folder), "--host", HOST, *chosen, *loading])
    try:
        return f"{board.launch()}{PAGE}"
    except program.TensorBoardServerException as error:
        raise UsageError(f"--port: {port} ({error.msg}), expected a free port") from None


def _has_screen() -> bool:
    """Whether a browser would open a window; without a screen it would take over the terminal."""
    return sys.platform in ("darwin", "win32") or any(os.environ.get(key) for key in ("DISPLAY", "WAYLAND_DISPLAY"))


def main() -> None:
    """The console script `pgkit-dashboard`."""
    about = "Serves TensorBoard for the runs in a folder, on this machine alone, until Ctrl-C."
    parser = argparse.ArgumentParser(prog="pgkit-dashboard", description=about)
    parser.add_argument("runs", type=Path, help="the folder of a run, or one that holds runs")
    parser.add_argument("--port", type=int, help="default: 6006, or the next free one; 0: any free one")
    parser.add_argument("--no-browser", action="store_true", help="only print the address")
    parser.add_argument("--version", action="version", version=f"pgkit {pgkit.__version__}")
    options = parser.parse_args()
    try:
        address = serve(options.runs, port=options.port)
    except UsageError as error:
        print(f"pgkit: {error}", file=sys.stderr)
        sys.exit(2)
    print(f"{address}\non this machine alone; Ctrl-C ends it", flush=True)
    if not options.no_browser and _has_screen():
        webbrowser.open(address)
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        print()


if __name__ == "__main__":
    main()
