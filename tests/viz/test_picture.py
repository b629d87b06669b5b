"""Figures and pictures: no global state, the same bytes each time, alt text, captions that are really drawn."""

import base64
import io
import subprocess
import sys

import matplotlib
import numpy as np
import pytest
from PIL import Image

from titans_mini.viz import draw, figure, legend, palette, png, show, shrink


def simple(value=1.0):
    fig, ax = figure(3, 2)
    ax.plot([0, 1], [0, value], color=palette.MEMORY, label="M")
    ax.set(xlim=(0, 1), ylim=(0, 2), title="θ ∇ℓ")
    legend(ax)
    return fig


def pixels(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def test_png_has_the_asked_size_and_the_same_bytes_each_time():
    assert pixels(png(simple(), dpi=100)).shape == (200, 300, 3)
    fig = simple()
    assert png(fig) == png(fig) == png(simple()) != png(simple(0.5))


def test_png_holds_no_metadata():
    assert set(Image.open(io.BytesIO(png(simple()))).info) <= {"transparency", "dpi"}


def test_palette_keeps_a_gradient_and_saves_room():
    fig, ax = figure(7, 2)
    draw.heatmap(ax, np.random.default_rng(0).normal(size=(64, 256)), aspect="auto", colorbar=True)
    exact, small = png(fig, colours=None), png(fig)
    assert len(small) < 0.7 * len(exact)
    assert np.abs(pixels(exact).astype(int) - pixels(small)).max() <= 8  # of 255: no bands, not even in the colour bar
    assert shrink(exact) == small


def test_nothing_global_is_left_behind():
    before = dict(matplotlib.rcParams)
    png(simple())
    show(simple(), "a line", "a caption")
    assert dict(matplotlib.rcParams) == before


def test_style_is_in_the_figure():
    _, ax = figure(3, 2)
    assert not ax.spines["top"].get_visible()
    assert ax.title.get_fontfamily()[0] == "DejaVu Sans"


def test_axes_as_asked():
    _, axes = figure(5, 3, 2, 3, sharex=True)
    assert axes.shape == (2, 3)


def test_bundle_has_picture_and_alt():
    picture = show(simple(), "A line from 0 to 1.")
    data, metadata = picture._repr_mimebundle_()
    assert set(data) == {"image/png", "text/plain"}
    assert base64.b64decode(data["image/png"]) == picture.data == png(simple())
    assert data["text/plain"] == repr(picture) == "A line from 0 to 1."
    assert metadata == {"image/png": {"alt": "A line from 0 to 1.", "width": 300}}


@pytest.mark.parametrize("alt", ["", "  "])
def test_alt_text_is_required(alt):
    with pytest.raises(ValueError, match="alt"):
        show(simple(), alt)


def test_caption_is_drawn_below_and_the_figure_stays_as_it_was():
    fig = simple()
    plain = png(fig)
    short, long = (pixels(show(fig, "a", text).data) for text in ("What to see.", "What to see. " * 12))
    assert pixels(plain).shape[0] < short.shape[0] < long.shape[0]
    assert short.shape[1] == long.shape[1] == 300
    bottom = short[-20:]
    assert (bottom < 200).any(), "nothing is written at the bottom"
    assert png(fig) == plain


@pytest.mark.parametrize("colour, expected", [("#000000", 1.0), ("#FFFFFF", 0x22 / 255), ("#FFE03A", 0x22 / 255)])
def test_ink_is_readable(colour, expected):
    rgb = np.array(matplotlib.colors.to_rgb(colour))
    assert palette.ink_on(rgb)[0] == pytest.approx(expected)


@pytest.mark.parametrize("x, limit", [([-1.0, 3.0], 3), ([float("nan"), -2.0, float("inf")], 2), ([0.0], 1), ([], 1)])
def test_signed_norm_is_symmetric_about_zero(x, limit):
    norm = palette.signed_norm(x)
    assert (norm.vmin, norm.vmax) == (-limit, limit)
    assert norm(0.0) == 0.5


# Machado et al. 2009, severity 1: protanopia, deuteranopia, tritanopia
SIMULATIONS = [
    [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
]


def least_distance(colours, eye=None):
    """The distance in CIELAB of the two colours that are most alike, to an eye that a matrix simulates."""
    rgb = np.array([matplotlib.colors.to_rgb(c) for c in colours])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    seen = linear if eye is None else linear @ np.transpose(eye)
    xyz = np.clip(seen, 0, 1) @ to_xyz.T / [0.9505, 1, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    lab = np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], -1)
    distance = np.linalg.norm(lab[:, None] - lab[None], axis=-1) + 1000 * np.eye(len(lab))
    return distance.min()


def test_concepts_are_told_apart_by_colour_blind_readers():
    for least, eye in zip([30, 20, 20, 20], (None, *SIMULATIONS), strict=True):
        assert least_distance(palette.CONCEPTS.values(), eye) > least


def test_swatches_show_colours_and_refuse_unknown_concepts():
    swatches = palette.swatches("memory", "key")
    assert palette.MEMORY in swatches._repr_html_() and "key" in repr(swatches)
    assert palette.VALUE not in swatches._repr_html_()
    with pytest.raises(ValueError, match="memmory"):
        palette.swatches("memmory")


def test_pictures_need_neither_pyplot_nor_widgets():
    script = (
        "import sys; from titans_mini.viz import draw, figure, show; f, a = figure(2, 1); show(f, 'a');"
        "assert not {'matplotlib.pyplot', 'ipywidgets', 'IPython'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
