import os
import subprocess
import sys

import pytest
import torch

from titans_mini import MemoryNet, neural_memory
from titans_mini.data import text_stream
from titans_mini.data.stream import _place

TEXT = "the cat sat on the mat; the cat sat on the hat"
FINGERPRINT = [  # of the first eight numbers of every twelfth key; a change here changes every picture of notebook 00
    "+-+-----",
    "+----+-+",
    "-+-++++-",
    "+----+-+",
]


def test_shapes_and_lengths():
    k, v = text_stream(TEXT, dim=64)
    assert k.shape == v.shape == (1, 1, len(TEXT), 64)
    torch.testing.assert_close(k.norm(dim=-1), torch.ones(1, 1, len(TEXT)))
    assert (v.sum(-1) == 1).all() and ((v == 0) | (v == 1)).all()


@pytest.mark.parametrize("t", range(0, len(TEXT), 5))
def test_no_key_sees_its_own_character_or_a_later_one(t):
    k, _ = text_stream(TEXT)
    for other in (TEXT[:t] + "#" * (len(TEXT) - t), TEXT[:t] + "\u2603 and something longer than before, much longer"):
        k_other, _ = text_stream(other)
        assert torch.equal(k[:, :, : t + 1], k_other[:, :, : t + 1])


def test_a_key_is_its_last_characters():
    k, v = (x[0, 0] for x in text_stream(TEXT, orders=(1, 2, 3, 4)))
    first, second = TEXT.index("cat s") + 4, TEXT.rindex("cat s") + 4
    assert torch.equal(k[first], k[second]) and torch.equal(v[first], v[second])
    third = TEXT.index("mat;") + 3  # "the mat" shares "at" and what stands before it does not
    alike, unlike = k[first - 1] @ k[third], k[first - 1] @ k[TEXT.index("on")]
    assert 0.25 < alike < 0.75 and abs(unlike) < 0.25
    assert torch.equal(v[0], torch.eye(256)[ord("t")])


def test_the_order_of_the_characters_matters():
    k, _ = text_stream("abX baX", orders=(2,))
    assert abs(k[0, 0, 2] @ k[0, 0, 6]) < 0.25


def test_only_the_orders_asked_for_count():
    longer, shorter = ("abcdX", "ybcdX")
    same = [text_stream(x, orders=(1, 3))[0][0, 0, 4] for x in (longer, shorter)]
    other = [text_stream(x, orders=(1, 4))[0][0, 0, 4] for x in (longer, shorter)]
    assert torch.equal(*same) and not torch.equal(*other)


def test_the_same_numbers_in_every_process():
    k, _ = text_stream(TEXT, orders=(1, 2, 3))
    assert ["".join("+" if x > 0 else "-" for x in row) for row in k[0, 0, ::12, :8]] == FINGERPRINT
    line = f"from titans_mini.data import text_stream; print(text_stream({TEXT!r})[0].double().cumsum(-1).sum().item())"
    sums = {
        subprocess.run(
            [sys.executable, "-c", line],
            env=dict(os.environ, PYTHONHASHSEED=seed, OMP_NUM_THREADS="1"),
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(sums) == 1


def test_seed_and_dtype():
    k, v = text_stream(TEXT, seed=1, dtype=torch.float64)
    assert k.dtype == v.dtype == torch.float64
    assert not torch.equal(k.float(), text_stream(TEXT)[0])


@pytest.mark.parametrize("text", ["", "a", "\n", "🙂", "äöü ß 漢字 🙂🙂", "\ud800 alone", "x" * 50])
def test_any_text(text):
    k, v = text_stream(text)
    assert k.shape == v.shape == (1, 1, len(text), 256)
    assert k.isfinite().all()
    gate = torch.zeros(k.shape[:3])
    y, _ = neural_memory(
        k, k, v, gate, gate, gate + 0.1, net=MemoryNet(256, 1, residual=False, norm=False), anchor="token"
    )
    assert y.shape == v.shape and y.isfinite().all()


def test_places_of_characters():
    assert [_place(c, 256) for c in "aZ\nä"] == [97, 90, 10, 228]
    assert all(128 <= _place(c, 256) < 256 for c in "🙂漢—’\ud800")


@pytest.mark.parametrize("options", [{"dim": 1}, {"orders": ()}, {"orders": (0, 1)}])
def test_what_cannot_be_is_refused(options):
    with pytest.raises(ValueError, match="text_stream: got dim"):
        text_stream(TEXT, **options)


def test_a_memory_learns_from_the_stream():
    """The claim of notebook 00: on its second reading a sentence surprises far less."""
    k, v = text_stream(2 * "A memory that was never trained reads this sentence. ")
    gate = torch.zeros(k.shape[:3])
    net = MemoryNet(256, depth=1, residual=False, norm=False)
    y, _ = neural_memory(k, k, v, gate, gate, gate + 0.3, net=net, anchor="token", read="before")
    surprise = (y - v).square().sum(-1)[0, 0]
    first, second = surprise.chunk(2)
    assert second.mean() < 0.6 * first.mean()
