"""The page about a run: whole, alone, and true to the numbers it was given."""

import re
from base64 import b64decode
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO

import matplotlib
import numpy as np
import pytest
from PIL import Image

from glacier.classes import Class, coloured
from glacier.model.calibration import BINS
from glacier.model.metrics import scores
from glacier.train.page import Page, ShownTile, best_epoch, render, row_shares
from glacier.train.reliability import diagram, points
from glacier.train.report import percent

CLASSES = coloured([("background", 0), ("glacier", 85), ("lake", 255)])
MATRIX = np.array([[900, 90, 10], [30, 270, 0], [5, 0, 15]])
WITHOUT_END = {"meta", "img", "br", "link"}


class Document(HTMLParser):
    """Tags with their attributes, and the text of each; fails where an end tag does not fit."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.texts = [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in WITHOUT_END:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip():
            self.texts.append((self.open[-1] if self.open else "", data.strip()))

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]

    def words(self, *within):
        return [text for tag, text in self.texts if not within or tag in within]


def epoch(number, mcc=0.5, names=("background", "glacier", "lake"), **changes):
    row = dict.fromkeys(("iou", "precision", "recall", "f1"), 0.5)
    record = {
        "epoch": number, "loss": 1 / number, "terms": {"ce": 0.5, "dice": 0.7}, "val_loss": 1.1 / number,
        "lr": 1e-3, "scores": {"mcc": mcc, "mean_iou": 0.6, "classes": dict.fromkeys(names, row)},
        "tiles_per_s": 40.0, "wait": 0.03, "seconds": 31.0, "skipped": 0,
    }  # fmt: skip
    return record | changes


def tile(seed, caption="a tile"):
    rng = np.random.default_rng(seed)
    return ShownTile(caption, *(rng.integers(0, 256, (8, 6, 3)).astype(np.uint8) for _ in range(3)))


def table(bins):
    """Reliability from pixels and those right of a few bins, of the confidence of their middles."""
    made = np.zeros((3, BINS))
    for place, (pixels, right) in bins.items():
        made[:, place] = pixels, right, pixels * (place + 0.5) / BINS
    return made


@pytest.fixture
def page():
    return Page(
        title="mountains-1",
        facts=[("MCC", "0.907"), ("best epoch", "2 of 3")],
        notes=["Scores are over fold 0."],
        history=[epoch(1, 0.3), epoch(2, 0.8), epoch(3, 0.7)],
        classes=CLASSES,
        confusion=MATRIX,
        scores=scores(MATRIX, [c.name for c in CLASSES]),
        before=table({5: (40, 10), 9: (100, 50), 14: (900, 800)}),
        after=table({5: (80, 28), 9: (160, 100), 13: (800, 750)}),
        worst=[tile(1, "scene_03, MCC 0.41")],
        best=[tile(2, "scene_01, MCC 0.97")],
        settings='[train]\nloss = "ce"\n',
    )


def drawn(text):
    return re.findall("<svg.*?</svg>", text, re.DOTALL)


def test_the_page_is_whole_and_says_what_it_was_given(page):
    document = Document(render(page))
    said = " ".join(document.words())
    for words in ("mountains-1", "0.907", "2 of 3", "Scores are over fold 0.", "scene_03, MCC 0.41",
                  "scene_01, MCC 0.97", '[train]\nloss = "ce"', *(c.name for c in CLASSES)):  # fmt: skip
        assert words in said
    assert len(document.all("svg")) == 7


def test_the_page_needs_nothing_else(page):
    text = render(page)
    document = Document(text)
    assert "http" not in text
    assert "@import" not in text
    assert not {"script", "link", "iframe"} & {tag for tag, _ in document.tags}
    addresses = [attrs[key] for _, attrs in document.tags for key in ("src", "href") if key in attrs]
    assert addresses
    assert all(address.startswith(("data:image/png;base64,", "#")) for address in addresses)


def test_what_charts_refer_to_is_there_once(page):
    text = render(page)
    ids = re.findall(r'\bid="([^"]*)"', text)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]*)"|url\(#([^)]*)\)', text)) <= {(i, "") for i in ids} | {
        ("", i) for i in ids
    }


def test_names_are_text_whatever_is_in_them(page):
    name = '<b>&"$x_1$'
    odd = (Class(name, 0, "#4a4038"), *CLASSES[1:])
    names = [c.name for c in odd]
    strange = replace(
        page,
        title=name,
        facts=[(name, name)],
        notes=[name],
        history=[epoch(1, names=names, terms={name: 0.5})],
        classes=odd,
        scores=scores(MATRIX, names),
        worst=[tile(1, name)],
        settings=name,
    )
    text = render(strange)
    document = Document(text)
    assert "<b>&" not in text
    for tag in ("h1", "dt", "dd", "li", "span", "th", "figcaption", "pre"):
        assert name in document.words(tag), tag
    assert any(name in attrs["title"] for attrs in document.all("td") if "title" in attrs)


def test_the_confusion_matrix_shows_shares_of_rows_and_pixels(page):
    document = Document(render(page))
    cells = [attrs for attrs in document.all("td") if attrs.get("class") == "cell"]
    assert [float(cell["style"].split("--share: ")[1]) for cell in cells] == [
        0.9, 0.09, 0.01, 0.1, 0.9, 0, 0.25, 0, 0.75,
    ]  # fmt: skip
    assert cells[1]["title"] == "90 pixels of background predicted as glacier"
    assert cells[3]["title"] == "30 pixels of glacier predicted as background"
    assert [text for text in document.words("td") if "%" in text][-9:] == [
        "90.0 %", "9.0 %", "1.0 %", "10.0 %", "90.0 %", "0.0 %", "25.0 %", "0.0 %", "75.0 %",
    ]  # fmt: skip
    assert document.words("small") == [str(n) for n in MATRIX.ravel()]


def test_a_class_without_pixels_has_dashes(page):
    matrix = np.array([[10, 0, 0], [0, 10, 0], [0, 0, 0]])
    rated = scores(matrix, [c.name for c in CLASSES])
    cells = Document(render(replace(page, confusion=matrix, scores=rated))).words("td")
    assert cells[-14:-9] == ["–", "–", "–", "–", "0"]
    assert cells[-3:] == ["–", "–", "–"]
    assert np.isnan(row_shares(matrix)[2]).all()


def test_small_shares_are_not_nothing():
    assert [percent(share) for share in (0.0, 0.0004, 0.0005, 1.0)] == [
        "0.0 %",
        "<0.1 %",
        "0.1 %",
        "100.0 %",
    ]


def test_pictures_are_those_given(page):
    images = Document(render(page)).all("img")
    given = [p for t in (*page.worst, *page.best) for p in (t.image, t.label, t.prediction)]
    assert [image["alt"] for image in images] == 2 * ["image", "label", "prediction"]
    for image, picture in zip(images, given, strict=True):
        data = b64decode(image["src"].removeprefix("data:image/png;base64,"))
        np.testing.assert_array_equal(np.asarray(Image.open(BytesIO(data))), picture)
        assert (image["width"], image["height"]) == ("6", "8")


def test_the_same_page_gives_the_same_text(page):
    before = dict(matplotlib.rcParams)
    assert render(page) == render(replace(page))
    assert dict(matplotlib.rcParams) == before


def test_the_best_epoch_is_the_last_of_the_highest(page):
    history = [epoch(1, 0.8), epoch(2, 0.8), epoch(3, float("nan")), epoch(4, None), epoch(5, 0.1)]
    assert best_epoch(history) == 2
    text = render(replace(page, history=history))
    assert re.findall(r'class="best"><td>(\d)', text) == ["2"]


@pytest.mark.parametrize("epochs", [1, 2, 40])
def test_any_number_of_epochs_can_be_drawn(page, epochs):
    text = render(replace(page, history=[epoch(n + 1) for n in range(epochs)]))
    Document(text)
    charts = "".join(drawn(text)[:6])
    ticks = [float(t) for t in re.findall(r"<text [^>]*text-anchor: middle[^>]*>([^<]*)</text>", charts)]
    assert ticks
    assert all(tick.is_integer() and 1 <= tick <= epochs for tick in ticks)


def test_what_is_no_number_is_a_gap(page):
    nothing = dict.fromkeys(("iou", "precision", "recall", "f1"))
    blank = {"mcc": 0.2, "mean_iou": None, "classes": {c.name: nothing for c in CLASSES}}
    gap = epoch(
        2, loss=None, val_loss=None, lr=0.0, tiles_per_s=None, wait=None, scores=blank, terms={"ce": None}
    )
    whole = drawn(render(replace(page, history=[epoch(1), epoch(2), epoch(3)])))
    broken = drawn(render(replace(page, history=[epoch(1), gap, epoch(3)])))
    assert len(broken) == 7
    assert "nan" not in "".join(broken)
    assert sum(map(strokes, broken)) < sum(map(strokes, whole))


def strokes(chart):
    """Line segments in the page's own colours."""
    paths = re.findall(r'<path d="([^"]*)"[^>]*stroke: var\(--curve', chart)
    return sum(path.count("L ") for path in paths)


def test_charts_of_nothing_are_left_out(page):
    blank = {"mcc": 0.2, "mean_iou": None, "classes": {c.name: {"iou": None} for c in CLASSES}}
    text = render(
        replace(page, history=[epoch(1, loss=None, val_loss=None, terms={}, scores=blank, lr=0.0)])
    )
    labels = [attrs["aria-label"] for attrs in Document(text).all("figure") if "aria-label" in attrs]
    assert labels == [
        "Validation scores over the epochs", "Speed over the epochs", "Learning rate over the epochs",
        "Accuracy against confidence, and pixels by confidence",
    ]  # fmt: skip


def test_without_tiles_there_is_no_word_of_them(page):
    text = render(replace(page, worst=[], best=[]))
    assert "Validation tiles" not in Document(text).words("h2")


def test_steps_left_out_are_told(page):
    told = "Steps left out since their loss was no number: "
    assert told not in render(page)
    assert told + "3." in render(replace(page, history=[epoch(1, skipped=1), epoch(2, skipped=2)]))


def test_the_reliability_diagram_has_a_point_and_a_bar_for_each_bin_with_pixels(page):
    chart = diagram(page.before, page.after, "x")
    assert chart.replace('"x-', '"reliability-').replace("#x-", "#reliability-") in render(page)
    for colour in ("--curve1", "--curve2"):
        dots = re.findall(rf'<use href="[^"]*" [^>]*fill: var\({colour}\)', chart)
        bars = re.findall(rf'<path d="[^"]*z\s*" clip-path[^>]*fill: var\({colour}\)', chart)
        assert len(dots) == len(bars) == 3
    assert strokes(chart) == 0  # no two of them are neighbours
    beside = table({9: (100, 50), 10: (100, 50), 14: (900, 800)})
    assert strokes(diagram(beside, page.after, "x")) == 1


def test_points_of_the_reliability_diagram_are_mean_confidence_and_accuracy():
    confidence, right = points(table({5: (40, 10), 14: (900, 810)}))
    assert confidence[[5, 14]] == pytest.approx([5.5 / BINS, 14.5 / BINS])
    assert right[[5, 14]] == pytest.approx([0.25, 0.9])
    assert np.isnan(confidence).sum() == np.isnan(right).sum() == BINS - 2


def test_the_reliability_of_no_pixels_can_be_drawn():
    chart = diagram(np.zeros((3, BINS)), np.zeros((3, BINS)), "x")
    assert "nan" not in chart
    assert strokes(chart) == 0
