"""What a person sees: the report, drawn by a browser."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from pgkit.report import report
from tests.browser import Node, dump, measured
from tests.fabricated import LAMBDAS, LAYERS, RATIOS, fabricate

WIDTHS = (390, 1280)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one run and its report, which nobody changes."""
    folder = tmp_path_factory.mktemp("report")
    fabricate(folder / "one-seed0")
    report([folder / "one-seed0"], folder / "report.html")
    return folder


@pytest.fixture(scope="module", params=WIDTHS)
def drawn(run: Path, request: pytest.FixtureRequest) -> Node:
    return measured(run / "report.html", width=request.param)


def columns(metrics: Path) -> dict[str, list[str]]:
    """Returns every cell that is not blank, by tag."""
    with metrics.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    tags = [tag for tag in rows[0] if "/" in tag]
    return {tag: [row[tag] for row in rows if row[tag]] for tag in tags}


def boxes(drawn: Node, tag: str) -> list[tuple[float, ...]]:
    """Returns (left, top, width, height) of every mark of a tag."""
    marks = [mark for mark in drawn.classed("mark") if mark.attributes.get("data-tag") == tag]
    return [tuple(map(float, mark.attributes["data-box"].split())) for mark in marks]


def test_every_measured_point_is_one_mark_that_can_be_seen(drawn: Node, run: Path) -> None:
    cells = columns(run / "one-seed0" / "metrics.csv")
    over_time = [
        "return/mean_100",
        "panel/current/snr",
        "noise_scale/trajectories",
        "critic_lag/value_ratio",
        "weights/ess_fraction",
        "halves/cosine",
        "time/diagnostics_fraction",
        *(f"step_decomposition/{part}" for part in ("trajectory", "action", "state")),
    ]
    expected = {tag: len(cells[tag]) for tag in over_time}
    # An estimator has a mark an update, and one in its interval at the end.
    expected |= {f"panel/{name}/variance_ratio": 13 for name in RATIOS if name != "current"}
    expected |= {f"layers/{name}/snr": 1 for name in LAYERS}
    expected |= {f"dial/lambda_{lam:g}/variance_of_mean": 1 for lam in LAMBDAS}
    expected |= {f"dial/{name}/variance_of_mean": 1 for name in ("clip_current", "clip_2", "window_1", "window_2")}
    assert {tag: len(boxes(drawn, tag)) for tag in expected} == expected
    seen = [box for tag in expected for box in boxes(drawn, tag)]
    assert min(min(width, height) for _, _, width, height in seen) > 0.5


@pytest.mark.parametrize("tag", ["return/mean_100", "panel/current/snr", "noise_scale/trajectories"])
def test_what_is_larger_stands_higher_and_what_is_later_further_right(drawn: Node, run: Path, tag: str) -> None:
    values = [float(cell) for cell in columns(run / "one-seed0" / "metrics.csv")[tag]]
    places = boxes(drawn, tag)
    assert [left for left, *_ in places] == sorted(left for left, *_ in places)
    for (value, box), (other, second) in zip(
        zip(values, places, strict=True), zip(values[1:], places[1:], strict=True), strict=False
    ):
        assert value == other or (value < other) == (box[1] > second[1])


def test_nothing_reaches_beyond_the_screen(drawn: Node) -> None:
    (body,) = drawn.all("body")
    assert float(body.attributes["data-widest"]) <= float(body.attributes["data-width"]) in WIDTHS


def test_every_number_is_the_last_one_of_metrics_csv(run: Path) -> None:
    page, cells = dump(run / "report.html"), columns(run / "one-seed0" / "metrics.csv")
    shown = {(each.attributes["data-tag"], each.attributes["value"]) for each in page.all("data")}
    assert shown == {(tag, column[-1]) for tag, column in cells.items() if column}


def test_what_is_read_is_what_the_numbers_say(run: Path) -> None:
    for each in dump(run / "report.html").all("data"):
        read = float(each.text.replace(",", "").replace("−", "-"))
        assert read == pytest.approx(float(each.attributes["value"]), rel=0.05 if "e" in each.text else 0.006)


def test_it_loads_nothing_and_runs_nothing(run: Path) -> None:
    page = dump(run / "report.html")
    assert not any(page.all(name) for name in ("script", "link", "img", "iframe", "object", "image", "use"))
    links = [link.attributes["href"] for link in page.all("a")]
    assert links and all(link.startswith(("#", "https://arxiv.org/", "https://doi.org/")) for link in links)
    assert "url(" not in page.all("style")[0].text and "@import" not in page.all("style")[0].text


def test_every_link_inside_leads_somewhere_and_every_panel_has_sentence_formula_and_numbers(run: Path) -> None:
    page = dump(run / "report.html")
    named = [node.attributes for name in ("section", "p", "main") for node in page.all(name)]
    ids = [attributes["id"] for attributes in named if "id" in attributes]
    inside = {link.attributes["href"].removeprefix("#") for link in page.all("a") if "#" in link.attributes["href"]}
    assert inside <= set(ids) and len(ids) == len(set(ids))
    panels = [section for section in page.all("section") if section.attributes["id"] != "rest"]
    assert len(panels) == 11
    for panel in panels:
        assert [len(panel.all(name)) for name in ("h2", "table")] >= [1, 1]
        (advice,) = panel.classed("advice")
        assert advice.text.rstrip().endswith(".") and advice.all("a")
        assert panel.all("svg") and all(svg.attributes["aria-label"] for svg in panel.classed("plot"))


def test_a_keyboard_reaches_everything(run: Path) -> None:
    page = dump(run / "report.html")
    first = page.all("a")[0]
    assert first.attributes["href"] == "#panels" and page.all("main")[0].attributes["id"] == "panels"
    assert all(region.attributes["tabindex"] == "0" for region in page.classed("scroll"))
    assert all(len(details.all("summary")) == 1 for details in page.all("details"))
    assert [len(page.all(name)) for name in ("h1", "main", "nav")] == [1, 1, 1]
    assert all(row.all("th") for table in page.all("table") for row in table.all("tr"))


HOSTILE = "<script>document.title='x'<script>&amp;\"'><img src=x onerror=alert(1)>"


def test_what_files_hold_is_shown_as_text_and_never_as_markup(tmp_path: Path) -> None:
    for name in (HOSTILE, "other"):
        fabricate(tmp_path / "runs" / name, updates=3, tensorboard=False)
    folder = tmp_path / "runs" / HOSTILE
    (folder / ".hydra" / "overrides.yaml").write_text("- 'env=<b>bold</b>'\n")
    (folder / "summary.json").write_text('{"status": "<i>done</i>", "env": "<u>env</u>"}')
    metrics = folder / "metrics.csv"
    metrics.write_text(metrics.read_text().replace("panel/zero/", "panel/<s>zero</s>/").replace("policy/kl", "<p>/kl"))
    report([tmp_path / "runs"], tmp_path / "report.html")
    page = dump(tmp_path / "report.html")
    assert not any(page.all(name) for name in ("script", "img", "b", "i", "u", "s"))
    assert page.all("title")[0].text != "x"
    text = page.whole()
    for shown in (HOSTILE, "env=<b>bold</b>", "<i>done</i>", "<u>env</u>", "<s>zero</s>", "<p>/kl"):
        assert shown in text


def test_several_runs_stand_side_by_side_on_the_same_axes(tmp_path: Path) -> None:
    fabricate(tmp_path / "runs" / "a")
    fabricate(tmp_path / "runs" / "b", updates=120, seed=1, status=None, keep=lambda tag: "zero" not in tag)
    report([tmp_path / "runs"], tmp_path / "report.html")
    page = dump(tmp_path / "report.html")
    (section,) = [each for each in page.all("section") if each.attributes["id"] == "estimators"]
    assert [title.text for title in section.all("h3")] == ["a", "b"]
    ticks = [[text.text for text in svg.classed("tick")] for svg in section.classed("plot")]
    assert ticks[0] == ticks[2] and ticks[1] == ticks[3]
    (together,) = [each for each in page.all("section") if each.attributes["id"] == "return"]
    assert len(together.classed("plot")) == 1 and len(together.classed("legend")[0].all("li")) == 2
    assert "there is no summary" in page.whole()


def test_what_a_run_did_not_measure_is_named_in_one_line_and_not_drawn(tmp_path: Path) -> None:
    fabricate(tmp_path / "run", keep=lambda tag: tag.startswith(("return/", "gradient/", "time/")))
    report([tmp_path / "run"], tmp_path / "report.html")
    page = dump(tmp_path / "report.html")
    assert [each.attributes["id"] for each in page.all("section")] == ["return", "signal", "time"]
    (line,) = [each.text for each in page.all("p") if each.attributes.get("id") == "missing"]
    assert line.startswith("Not measured: Variance by estimator") and "diagnostics=full" in line
