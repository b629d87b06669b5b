"""Names with hats: what decides the rail, and what the memories that read them are asked."""

import pytest
import torch

from titans_mini.data import hats


def test_a_tidy_rail_has_no_two_coats_of_a_name_or_a_hat():
    e = hats.party(range(3), names=4, hats=4, rails=4, visits=50)
    for table in e.rails.view(3, 4, 4):
        lines = [*table, *table.T]
        assert all(line.sort().values.tolist() == [0, 1, 2, 3] for line in lines)
    assert e.keys.shape == (3, 16, 30) and e.who.shape == (3, 50) and len(e.rails.unique(dim=0)) > 1


def test_a_key_is_a_name_and_a_hat():
    keys = hats.guests(2, 3)
    torch.testing.assert_close(keys.norm(dim=-1), torch.ones(6))
    torch.testing.assert_close(keys[0] - keys[1], keys[3] - keys[4])  # the same two hats, whatever the name
    assert torch.linalg.matrix_rank(keys) == 2 + 3 - 1


def test_visits_say_the_rail_of_the_guest():
    e = hats.party([5], names=3, hats=2, rails=2, visits=20)
    k, v = e.visits
    assert torch.equal(k[0], e.keys[0, e.who[0]])
    assert torch.equal(v[0].argmax(-1), e.rails[0, e.who[0]]) and torch.equal(v.sum(-1), torch.ones(1, 20))


def test_only_depth_finds_the_pairs():
    kind = {"names": 2, "hats": 2, "rails": 2, "visits": 300}
    practice, judged = hats.party(range(4), **kind), hats.party(range(10, 14), **kind)
    shallow, deep = (hats.at_its_best(hats.plain(28, depth), practice, judged, (0.1, 0.2)) for depth in (1, 2))
    assert shallow < 0.7 < 0.9 < deep


def test_votes_have_no_pair_share():
    votes = torch.randn(5, 4, 1) + torch.randn(5, 1, 3)
    assert hats.pair_share(votes) == pytest.approx(0, abs=1e-6)
    assert hats.pair_share(torch.tensor([[[1.0, -1.0], [-1.0, 1.0]]])) == 1


@pytest.mark.parametrize("task", [hats.two_of_fifteen, hats.same_digit])
def test_rails_of_the_carnival_are_no_votes(task):
    keys, rails = task(2, 400)
    torch.testing.assert_close(keys.norm(dim=-1), torch.ones(2, 400))
    assert set(rails.unique().tolist()) == {-1.0, 1.0}
    best = torch.linalg.lstsq(keys.flatten(0, 1), rails.flatten()[:, None]).solution
    assert (keys.flatten(0, 1) @ best)[:, 0].square().mean() < 0.1


def test_practice_reaches_what_the_best_matrix_leaves():
    tables = torch.randint(2, (4, 5, 3), generator=torch.Generator().manual_seed(0)).double() * 2 - 1
    assert hats.practised_loss(tables[:, :, :1], 200) == pytest.approx(0, abs=1e-3)
    rest = tables - tables.mean(1, keepdim=True)
    rest = rest - rest.mean(2, keepdim=True)
    assert hats.practised_loss(tables, 200) == pytest.approx(rest.square().mean().item(), rel=0.02)


def test_passes_begin_with_an_empty_book():
    k, v = hats.unrelated(4, 2)
    said = hats.after_passes(hats.plain(16, 1), k, v, 30, (0.1, 0.3))
    assert said.shape == (31, 2, 2, 4, 16) and not said[0].any()
    assert (said[-1, 1] - v).norm() < 0.2 * v.norm()


def test_a_book_of_any_shape_reads_as_a_matrix_memory():
    evenings = hats.party(range(2), visits=40)
    k, v = evenings.visits
    y, state = hats.read(hats.plain(30, 1), k, v, (0.1, 0.3))
    said, book = hats.read_book(k, v[..., :4], (0.1, 0.3))
    torch.testing.assert_close(said, y[..., :4])
    torch.testing.assert_close(book, state.weights[0][..., :4])
    assert torch.equal(hats.rails_named(None, evenings, (0.1,)), hats.rails_named(hats.plain(30, 1), evenings, (0.1,)))
    with pytest.raises(ValueError, match="no momentum"):
        hats.rails_named(None, evenings, (0.1,), eta=0.6)
    pairs = hats.unrelated(4, 2)
    empty, net = (hats.after_passes(which, *pairs, 3, (0.1, 0.3)) for which in (None, hats.plain(16, 1)))
    torch.testing.assert_close(empty, net)


def test_boards_show_the_best_step():
    evening = hats.party([3], names=2, hats=2, rails=2, visits=300)
    named, right = hats.best_boards(hats.plain(28, 2), evening, (0.001, 0.2))
    assert named.shape == right.shape == (2, 2) and torch.equal(right.flatten(), evening.rails[0])
    assert torch.equal(named, right)


def test_recalled_counts_nearest_values_and_no_nan():
    v = torch.eye(3)
    said = torch.stack([2 * v, v.roll(1, 0), v * torch.nan])
    assert hats.recalled(said, v).tolist() == [1, 0, 0]


def test_digits_are_shuffled_and_labelled():
    keys, values, labels = hats.shuffled_digits(2, 30)
    assert keys.shape == values.shape == (2, 30, 64) and torch.equal(values.argmax(-1), labels)
    assert not torch.equal(labels[0], labels[1])
