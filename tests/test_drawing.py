"""Figures are small files: their shapes stay to a tenth of a point, their text stays text."""

import re
import xml.etree.ElementTree as ElementTree

import matplotlib
import pytest
from matplotlib.figure import Figure

from wavefold.drawing import compact_svg, save_figure

SVG = "{http://www.w3.org/2000/svg}"


def figure():
    drawing = Figure(figsize=(6, 4))
    axes = drawing.subplots()
    axes.plot([1, 2, 4, 8], [3.0, 1.0, 4.0, 1.5], "o-", label="a line")
    axes.barh([1, 2], [0.5, 1.5], edgecolor="white")
    axes.set(title="a title", xlabel="10 % of it", xscale="log")
    axes.legend()
    return drawing


def texts(svg):
    return [" ".join("".join(text.itertext()).split()) for text in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def numbers(svg):
    drawn = (path.get("d") for path in ElementTree.fromstring(svg).iter(f"{SVG}path"))
    return [float(number) for path in drawn for number in re.findall(r"-?[\d.]+", path)]


def test_a_compact_figure_has_the_same_text_and_shapes(tmp_path):
    path = tmp_path / "figure.svg"
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "wavefold"}):
        figure().savefig(path)
    plain = path.read_text()
    small = compact_svg(plain)
    assert texts(small) == texts(plain) and "a title" in texts(small) and "a line" in texts(small)
    assert numbers(small) == pytest.approx(numbers(plain), abs=0.051)
    assert len(small) < len(plain) / 2


def test_the_same_figure_is_the_same_file(tmp_path):
    for name in ("a.svg", "b.svg"):
        save_figure(figure(), tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert (tmp_path / "a.svg").read_text().startswith("<?xml")
