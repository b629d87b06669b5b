"""States: copied, cut, moved, chosen from, saved and loaded, and never changed from behind."""

import copy
import dataclasses
import json
import os
import pickle
import random
import threading
import zipfile

import numpy as np
import pytest
import torch

from tests.helpers import matrix, network, start, state_difference, tensors
from titans_mini import MemoryNet, MemoryState, NeuralMemory, NeuralMemoryState, TitansConfig, TitansLM


def layer_state(dtype=torch.float32, seed=0):
    torch.manual_seed(seed)
    layer = NeuralMemory(8, heads=2, chunk_size=4).to(dtype)
    with torch.no_grad():
        return layer(torch.randn(3, 6, 8, dtype=dtype))[1]


def everything(state):
    return list(state.to_dict().values())


def same(a, b):
    pairs = list(zip(everything(a), everything(b), strict=True))
    return type(a) is type(b) and all(x.dtype == y.dtype and torch.equal(x, y) for x, y in pairs)


@pytest.fixture(params=["memory", "layer"])
def state(request):
    return start(network(), B=3, position=2) if request.param == "memory" else layer_state()


def test_it_knows_its_sizes():
    net = network(D=4, depth=2, expansion=2)
    s = start(net, B=3, H=2)
    assert (s.batch, s.heads, s.position) == (3, 2, 0)
    assert s.nbytes == 3 * (3 * 2) * (4 * 8 + 8 * 4) * 8  # parts × B·H × parameters × bytes


def test_detach_cuts_the_graph_and_shares_the_numbers():
    s = start(network()).map(lambda x: x.requires_grad_() * 1)
    cut = s.detach()
    assert all(x.requires_grad for x in tensors(s)) and not any(x.requires_grad for x in tensors(cut))
    assert cut.weights[0].data_ptr() == s.weights[0].data_ptr() and cut.position == s.position


def test_clone_copies(state):
    twin = state.clone()
    assert same(twin, state)
    for x, y in zip(everything(twin), everything(state), strict=True):
        if x.dim():
            assert x.data_ptr() != y.data_ptr()


def test_clone_of_a_fresh_state_is_no_longer_expanded():
    s = matrix().init_state(3, 2).clone()
    s.weights[0][0] += 1
    assert (s.weights[0][1] == 0).all()


def test_to_casts_and_moves(state):
    moved = state.to(torch.float64).to("meta")
    floating = [x for x in everything(moved) if x.dim()]
    assert all(x.is_meta and x.dtype == torch.float64 for x in floating)
    assert not any(x.is_meta for x in everything(state))


@pytest.mark.parametrize(
    ("index", "rows"),
    [
        (1, [1]),
        (-1, [2]),
        (np.int64(1), [1]),
        (torch.tensor(1), [1]),
        (slice(1, 3), [1, 2]),
        ([2, 0], [2, 0]),
        (torch.tensor([2, 0]), [2, 0]),
        (torch.tensor([True, False, True]), [0, 2]),
        (np.array([2, 0]), [2, 0]),
        ([], []),
    ],
)
def test_indexing_chooses_sequences_and_keeps_the_batch_axis(state, index, rows):
    chosen = state[index]
    for x, y in zip(everything(chosen), everything(state), strict=True):
        assert torch.equal(x, y[rows] if x.dim() else y)
    assert chosen.to_dict().keys() == state.to_dict().keys()


def test_one_index_too_far_ends_a_loop_over_the_batch(state):
    with pytest.raises(IndexError):
        state[3]
    assert [same(one, state[i]) for i, one in enumerate(state)] == [True] * 3


def test_a_dictionary_and_back(state):
    flat = state.to_dict()
    assert all(torch.is_tensor(x) for x in flat.values())
    assert same(type(state).from_dict(flat), state)


@pytest.mark.parametrize("change", ["missing", "unknown", "empty"])
def test_a_dictionary_of_something_else(state, change):
    flat = state.to_dict()
    if change == "missing":
        del flat[next(name for name in flat if name.endswith("momentum.0"))]
    elif change == "unknown":
        flat["extra"] = torch.zeros(1)
    else:
        flat = {}
    with pytest.raises(ValueError, match="State: got names .*expected"):
        type(state).from_dict(flat)


def test_torch_save_without_code(state, tmp_path):
    torch.save(state.to_dict(), tmp_path / "s.pt")
    assert same(type(state).from_dict(torch.load(tmp_path / "s.pt", weights_only=True)), state)


def test_pickle_and_deepcopy(state):
    assert same(pickle.loads(pickle.dumps(state)), state) and same(copy.deepcopy(state), state)


def test_states_are_frozen_and_compared_by_identity(state):
    with pytest.raises(dataclasses.FrozenInstanceError):
        state.position = 3
    assert state == state and state != state.clone() and len({state, state.clone()}) == 2


# -- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_save_and_load(state, dtype, tmp_path):
    state = state.to(dtype)
    path = tmp_path / "state.npz"
    state.save(path)
    assert same(type(state).load(path), state)
    assert same(type(state).load(str(path)), state)


def test_a_file_holds_arrays_and_no_pickle(state, tmp_path):
    path = tmp_path / "s.npz"
    state.save(path)
    with np.load(path, allow_pickle=False) as file:
        assert all(file[name].dtype != object for name in file.files)
        meta = json.loads(bytes(file["__titans_mini__"]).decode())
        assert meta["class"] == type(state).__name__ and set(file.files) == {*state.to_dict(), "__titans_mini__"}
    assert zipfile.is_zipfile(path)
    content = path.read_bytes()
    assert b"pickle" not in content and b"torch._utils" not in content and b"numpy.core" not in content


def test_saving_cuts_the_graph_and_expanded_states_can_be_saved(tmp_path):
    net = network().float()
    weights = tuple(w.requires_grad_() for w in net.init_weights(2))
    s = net.init_state(3, 2, weights=weights)
    s.save(tmp_path / "s.npz")
    assert same(MemoryState.load(tmp_path / "s.npz"), s.detach())


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path, old, new = tmp_path / "s.npz", start(network()), start(network(), seed=1)
    old.save(path)

    def full(*args, **kwargs):
        raise OSError("no space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(OSError, match="no space"):
        new.save(path)
    assert state_difference(MemoryState.load(path), old) == 0


def test_loading_something_else(tmp_path):
    path = tmp_path / "s.npz"
    layer_state().save(path)
    with pytest.raises(ValueError, match="got a NeuralMemoryState, expected a MemoryState"):
        MemoryState.load(path)
    np.savez(path, a=np.zeros(2))
    with pytest.raises(ValueError, match="without a titans_mini state, expected one written by save"):
        MemoryState.load(path)
    with pytest.raises(FileNotFoundError):
        MemoryState.load(tmp_path / "nothing.npz")


def test_loading_what_is_no_npz_is_one_clear_error(tmp_path):
    path = tmp_path / "s.npz"
    start(network()).save(path)
    half = path.read_bytes()[:500]
    np.save(tmp_path / "a.npy", np.zeros(3))
    for content in (b"", b"hello", half, (tmp_path / "a.npy").read_bytes(), pickle.dumps({"a": 1})):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="s.npz: got no .npz file, expected one written by save"):
            MemoryState.load(path)


def test_a_file_with_a_pickle_inside_is_not_executed(tmp_path):
    path = tmp_path / "s.npz"
    meta = json.dumps({"class": "MemoryState", "dtypes": {"weights.0": "float32"}}).encode()
    array = np.array([{"a": 1}], dtype=object)
    np.savez(path, **{"weights.0": array, "__titans_mini__": np.frombuffer(meta, np.uint8)}, allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle=False"):
        MemoryState.load(path)


def model_state():
    torch.manual_seed(0)
    sizes = {"dim": 8, "heads": 1, "layers": 1, "window": 4, "segment": 4, "chunk_size": 4, "vocab_size": 10}
    model = TitansLM(TitansConfig("mac", memory_expansion=1, persistent=1, **sizes))
    with torch.no_grad():
        return model(torch.arange(6)[None])[1]


SMALL = {"memory": lambda: start(matrix(), B=1, H=1, position=2), "layer": layer_state, "model": model_state}


def loads_the_same_or_says_why(path, content, state):
    """Load changed bytes: a ValueError in one line that names the file, or the state without a change. True if so."""
    path.write_bytes(content)
    try:
        again = type(state).load(path)
    except ValueError as error:
        assert str(error).startswith(f"{path}: ") and "\n" not in str(error), error
        return False
    assert same(again, state)
    return True


@pytest.mark.parametrize("kind", ["memory", "model"])
def test_a_flipped_bit_is_found_or_does_not_matter(kind, tmp_path):
    path, state = tmp_path / "s.npz", SMALL[kind]()
    state.save(path)
    content, draw, same_state = path.read_bytes(), random.Random(0), 0
    for _ in range(200):
        damaged, bit = bytearray(content), draw.randrange(8 * len(content))
        damaged[bit // 8] ^= 1 << bit % 8
        same_state += loads_the_same_or_says_why(path, bytes(damaged), state)
    assert same_state < 100  # dates and other fields of the zip that no one reads


@pytest.mark.parametrize("kind", SMALL)
def test_a_file_cut_short_is_refused(kind, tmp_path):
    path, state = tmp_path / "s.npz", SMALL[kind]()
    state.save(path)
    content = path.read_bytes()
    for end in (
        0,
        1,
        30,
        len(content) // 3,
        len(content) // 2,
        len(content) - 100,
        len(content) - 22,
        len(content) - 1,
    ):
        assert not loads_the_same_or_says_why(path, content[:end], state)


def rewrite(path, change):
    """Write a state's file again with other arrays and metadata, as a program that is not ours might."""
    with np.load(path) as file:
        arrays = dict(file)
    meta = json.loads(arrays.pop("__titans_mini__").tobytes())
    change(arrays, meta)
    np.savez(path, **arrays, __titans_mini__=np.frombuffer(json.dumps(meta).encode(), np.uint8))


def other_number(arrays, meta):
    arrays["weights.0"][0, 0, 0, 0] += 1


def other_shape(arrays, meta):
    arrays["weights.0"] = arrays["weights.0"].reshape(1, 1, -1, 1)


def other_name(arrays, meta):
    arrays["weights.1"] = arrays.pop("weights.0")


def exchanged(arrays, meta):
    arrays["weights.0"], arrays["anchor.0"] = arrays["anchor.0"], arrays["weights.0"]


def one_more(arrays, meta):
    arrays["extra"] = np.zeros(1)


def other_dtype(arrays, meta):
    meta["dtypes"]["weights.0"] = "float32"


def false_bfloat16(arrays, meta):
    meta["dtypes"]["weights.0"] = "bfloat16"


def big_endian(arrays, meta):
    arrays["weights.0"] = arrays["weights.0"].astype(">f8")


def no_dtypes(arrays, meta):
    del meta["dtypes"]


def no_class(arrays, meta):
    meta["class"] = None


CHANGES = [other_number, other_shape, other_name, exchanged, one_more]
CHANGES += [other_dtype, false_bfloat16, big_endian, no_dtypes, no_class]


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_was_changed_is_refused(change, tmp_path):
    path = tmp_path / "s.npz"
    SMALL["memory"]().save(path)
    rewrite(path, change)
    with pytest.raises(ValueError, match="s.npz: got .*expected"):
        MemoryState.load(path)


@pytest.mark.parametrize("change", [other_dtype, false_bfloat16], ids=["float32", "bfloat16"])
def test_a_declared_dtype_is_not_believed(change, tmp_path):
    path = tmp_path / "s.npz"
    SMALL["memory"]().save(path)
    rewrite(path, lambda arrays, meta: (change(arrays, meta), meta.pop("digest", None)))
    with pytest.raises(ValueError, match=r"s.npz: got weights\.0 as float64, expected .*float"):
        MemoryState.load(path)


def test_a_file_from_before_the_digest_is_loaded(tmp_path):
    path, state = tmp_path / "s.npz", SMALL["memory"]()
    state.save(path)
    rewrite(path, lambda arrays, meta: meta.pop("digest"))
    assert same(MemoryState.load(path), state)


@pytest.mark.parametrize("kind", ["memory", "model"])
@pytest.mark.parametrize("position", [1.7, 2.0, -1, True, [1, 2]], ids=str)
def test_a_position_is_an_integer(kind, position, tmp_path):
    path, state = tmp_path / "s.npz", SMALL[kind]()
    flat = state.to_dict() | {"position": torch.tensor(position)}
    with pytest.raises(ValueError, match="position: got .*, expected an integer ≥ 0"):
        type(state).from_dict(flat)

    def change(arrays, meta):
        arrays["position"] = np.asarray(position)
        meta["dtypes"]["position"] = str(torch.tensor(position).dtype).removeprefix("torch.")
        meta.pop("digest", None)

    state.save(path)
    if not isinstance(position, list):  # numpy's dtype of a float is float64
        rewrite(path, lambda arrays, meta: (change(arrays, meta), meta["dtypes"].update(position="float64")))
    rewrite(path, change)
    with pytest.raises(ValueError, match="s.npz: .*position"):
        type(state).load(path)


def test_two_saves_at_once_do_not_collide(tmp_path, monkeypatch):
    path, states, failed = tmp_path / "s.npz", [start(network(), seed=seed) for seed in (0, 1)], []
    both_written, replace = threading.Barrier(2, timeout=20), os.replace

    def replace_when_both_are_written(*paths):
        both_written.wait()
        replace(*paths)

    def save(state):
        try:
            state.save(path)
        except Exception as error:
            failed.append(error)

    monkeypatch.setattr("os.replace", replace_when_both_are_written)
    threads = [threading.Thread(target=save, args=[state]) for state in states]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed and [p.name for p in tmp_path.iterdir()] == ["s.npz"]
    assert any(same(MemoryState.load(path), state) for state in states)


def test_a_failed_save_leaves_nothing_behind(tmp_path, monkeypatch):
    def refuse(*paths):
        raise OSError("the disk went away")

    monkeypatch.setattr("os.replace", refuse)
    with pytest.raises(OSError, match="went away"):
        start(network()).save(tmp_path / "s.npz")
    assert not list(tmp_path.iterdir())


def test_a_missing_file_is_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        MemoryState.load(tmp_path / "s.npz")


def test_a_layers_state_knows_its_parts():
    s = layer_state()
    assert isinstance(s, NeuralMemoryState) and set(s.to_dict()) >= {"conv", "memory.weights.0", "memory.position"}
    assert s.memory.position == 2 and s.conv.shape == (3, 24, 3)


# -- a state is a snapshot ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokens", [0, 3, 16, 20])
@pytest.mark.parametrize("options", [{}, {"depth": 1, "norm": False, "anchor": "token"}, {"conv_size": 1}])
def test_an_optimizer_step_changes_no_state(options, tokens):
    """Also inside the first chunk, whose anchor is the learned M₀."""
    layer = NeuralMemory(8, heads=2, **options)
    _, state = layer(torch.randn(2, tokens, 8))
    for kept in (state.detach(), layer.init_state(2).detach()):
        before = kept.clone().to_dict()
        with torch.no_grad():
            for p in layer.parameters():
                p.add_(0.4)
        for name, x in kept.to_dict().items():
            assert torch.equal(x, before[name]), name


def test_sequences_of_a_fresh_state_share_no_memory():
    state = MemoryNet(4).init_state(3, 2)
    state.weights[0][0] = 7.0
    assert not (state.weights[0][1:] == 7).any()
