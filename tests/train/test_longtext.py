"""Novels as streams: rows and stages, starts, what is frozen and clipped, and the score, carried and reset."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.data import standin
from titans_mini import TitansConfig, TitansLM
from titans_mini.data import Tokens
from titans_mini.data.invented import NAME
from titans_mini.data.novels import TEST, TRAIN, VALIDATION
from titans_mini.memory.layer import NeuralMemory
from titans_mini.models.baselines import ReadOnlyMemory
from titans_mini.train import TrainConfig, Trainer, Windows, longtext
from titans_mini.train import record as record_module
from titans_mini.train.config import FLAT
from titans_mini.train.experiments import Experiment
from titans_mini.train.longscore import bits_by_position, bits_of_names, by_kilobyte, forget, read_bits
from titans_mini.train.longtext import DRILLED, PLAIN, LongText, Stage
from titans_mini.train.readers import Drill, Reader, Rows
from titans_mini.train.recipes import EXPERIMENTS, PLANNED
from titans_mini.train.starts import copy_start, induction_start, memories, steady_gates

BOOKS = [np.arange(1000 * b, 1000 * b + n) for b, n in enumerate((50, 9, 31, 100))]
TOKENS = Tokens.of(np.concatenate(BOOKS), np.cumsum([len(b) for b in BOOKS]))
MATRIX = {"memory_depth": 1, "residual": False, "norm": False, "persistent": 0, "heads": 1, "gate": "add"}
CONFIG = TitansConfig("mag", 2048, 16, **MATRIX, window=8, chunk_size=8, max_theta=0.05, attention_heads=2)


# -- rows -------------------------------------------------------------------------------------------------------------


def test_a_reader_reads_every_book_from_the_front_to_the_back():
    reader = Reader(TOKENS, 10, (3, 0))
    pieces = [reader(i) for i in range(2 * 16)]
    for number in (0, 1):  # a pass: 4 + 0 + 3 + 9 pieces
        found = {}
        for tokens, fresh in pieces[16 * number : 16 * number + 16]:
            book, place = divmod(int(tokens[0]), 1000)
            assert tokens.tolist() == list(range(tokens[0], tokens[0] + 11)) and fresh == (place == 0)
            assert place == found.get(book, -10) + 10, "it goes on where it stopped"
            found[book] = place
        assert found == {0: 30, 2: 20, 3: 80}, "a book of nine tokens has no piece"
    orders = {tuple(int(Reader(TOKENS, 10, (3, r))(i)[0][0]) // 1000 for i in range(16)) for r in range(8)}
    assert len(orders) > 1


def test_a_reader_forgets_with_its_probability_and_where_a_book_begins():
    reader = Reader(TOKENS, 10, (0, 0), forget=0.25)
    fresh = [reader(i) for i in range(1600)]
    within = [new for tokens, new in fresh if tokens[0] % 1000]
    assert all(new for tokens, new in fresh if tokens[0] % 1000 == 0)
    assert np.mean(within) == pytest.approx(0.25, abs=0.04)


def test_a_drill_repeats_within_a_piece_or_in_the_next():
    within, later = Drill(TOKENS, 10, (0, 6)), Drill(TOKENS, 10, (0, 4), later=True)
    news = []
    for i in range(100):
        tokens, fresh = within(i)
        assert fresh and len(tokens) == 11 and tokens[:5].tolist() == tokens[5:10].tolist() and tokens[10] == tokens[0]
        first, new = later(2 * i)
        again, old = later(2 * i + 1)
        assert first.tolist() == again.tolist() == list(range(first[0], first[0] + 11)) and not old
        news.append(new)
    assert 30 < sum(news) < 70
    begins = {int(within(i)[0][0]) for i in range(2000)}
    assert {0, 45, 1000, 1004, 2026, 3095} <= begins and max(begins) == 3095, "every passage of every book"


def test_rows_are_a_function_of_the_number_alone_and_begin_anew_with_new_work():
    def make():
        read, drill = Reader(TOKENS, 10, (0, 0)), Drill(TOKENS, 10, (0, 1))
        return Rows(((4, (read, drill)), (8, (read, Reader(TOKENS, 10, (0, 1))))))

    source = make()
    late = source(11)
    batches = [source(i) for i in range(12)]
    for i in (11, 2):
        assert all(torch.equal(a, b) for a, b in zip(make()(i), batches[i], strict=True))
    assert torch.equal(late.tokens, batches[11].tokens) and late.tokens.dtype == torch.int64
    for i, batch in enumerate(batches):
        assert torch.equal(batch.tokens[:, 1:], batch.targets[:, :-1]) and batch.fresh.shape == (2,)
        assert batch.fresh[0] == (batch.tokens[0, 0] % 1000 == 0)
        assert batch.fresh[1] == (i <= 4 or bool(batch.tokens[1, 0] % 1000 == 0))


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Reader(TOKENS, 100, (0,)), "a book with more tokens"),
        (lambda: Drill(TOKENS, 9, (0,)), "got length=9, expected an even number"),
        (lambda: Rows(()), "expected one number of rows"),
        (lambda: LongText(stages=(Stage(0.5),)), "got ends .0.5., expected increasing shares"),
        (lambda: LongText(stages=(Stage(1.0, False, (8,)),)), "got drills in rows .8., expected 0 to 7"),
        (lambda: TrainConfig(clip_start=0.0), "clip_start: got 0.0"),
        (lambda: TrainConfig(schedule="flatt"), "did you mean flat?"),
        (lambda: TitansConfig("swa", read_only=True), "read_only: got True with variant 'swa'"),
        (lambda: TitansConfig(dim=12, heads=1, attention_heads=4), "attention_heads: got 4 for dim 12"),
    ],
)
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# -- rate and clipping ------------------------------------------------------------------------------------------------


def test_the_rate_stays_and_then_falls_in_a_line():
    c = TrainConfig(steps=110, warmup=10, lr=2.0, final_lr=0.1, schedule="flat")
    rates = [c.rate(i) for i in range(111)]
    assert rates[9] == rates[10] == rates[49] == 2 and rates[50] == pytest.approx(2) and FLAT == 0.4
    assert np.diff(rates[50:]) == pytest.approx(-1.8 / 60) and rates[-1] == pytest.approx(0.2)
    assert TrainConfig(steps=110, warmup=10).rate(60) == pytest.approx(4e-4 * 0.55), "the default is the cosine"


def gradients(clip_start):
    torch.manual_seed(0)
    model = TitansLM(replace(CONFIG, vocab_size=50))
    config = TrainConfig(steps=1, clip=0.5, clip_start=clip_start)
    trainer = Trainer(model, Windows(torch.arange(50), 2, 16), config)
    for name, p in model.named_parameters():
        p.grad = torch.ones_like(p) * (100 if "initial_weights" in name else 1)
    norm = trainer._clip()
    rows = {True: [], False: []}
    for name, p in model.named_parameters():
        rows["initial_weights" in name].append(p.grad.norm())
    return float(norm), *(float(torch.stack(rows[key]).norm()) for key in (True, False)), model


def test_the_gradient_of_the_start_is_clipped_apart():
    norm, start, rest, model = gradients(None)
    assert math.hypot(start, rest) == pytest.approx(0.5, rel=1e-3) and rest < 0.1
    apart, start, rest, _ = gradients(2.0)
    assert start == pytest.approx(2, rel=1e-3) and rest == pytest.approx(0.5, rel=1e-3)
    others = sum(p.numel() for name, p in model.named_parameters() if "initial_weights" not in name)
    assert apart == pytest.approx(others**0.5, rel=1e-3) and norm > apart


# -- starts -----------------------------------------------------------------------------------------------------------


def test_an_induction_start_finds_what_followed_the_last_time():
    torch.manual_seed(0)
    memory = NeuralMemory(32, 1, depth=1, residual=False, norm=False)
    induction_start(memory, torch.Generator().manual_seed(0))
    x = torch.randn(1, 40, 32)
    x[:, 30:34] = x[:, 10:14]
    q, k, v, _ = memory.project(x, memory.init_state(1).conv)
    likeness = q[0, 0] @ k[0, 0].T  # (queries, keys)
    assert likeness[33, :33].argmax() == 14, "the token after the one that was the same"
    assert torch.allclose(k[:, :, 1:], q[:, :, :-1], atol=1e-6), "keys are the queries of one token earlier"
    assert torch.allclose(v, torch.nn.functional.silu(x @ memory.to_qkv.weight[64:].T)[:, None], atol=1e-6)
    with pytest.raises(ValueError, match="conv_size=1, expected ≥ 2"):
        induction_start(NeuralMemory(32, 1, conv_size=1), torch.Generator())


def test_a_copy_start_answers_with_an_embedding():
    torch.manual_seed(0)
    model = TitansLM(replace(CONFIG, dim=64))
    LongText(half_lives=()).start(model, 0)
    memory = memories(model)[0]
    with torch.no_grad():
        e = model.blocks[0].norm(model.embedding.weight[:300])
        answers = memory.to_output(e @ memory.to_qkv.weight[128:].T)
        right = (model.head(answers)[:, :300].argmax(1) == torch.arange(300)).float().mean()
        gate = memory.output_gate(e).mean()
    assert right > 0.8 and gate > 0.3, "what a token's v gives back is that token, and the gate is open"
    assert not memory.to_qkv.weight[:128, 0].any()
    with pytest.raises(ValueError, match="expected tied embeddings and a memory that writes"):
        copy_start(TitansLM(replace(CONFIG, read_only=True)))


def test_steady_gates_do_not_move_and_step_sizes_do():
    torch.manual_seed(0)
    model = TitansLM(replace(CONFIG, layers=1, vocab_size=50))
    memory = memories(model)[0]
    steady_gates(memory, 5000.0, 0.005)
    alpha, eta, theta = (gate.detach() for gate in memory.gates(torch.randn(1, 3, 16)))
    assert alpha.mean() == pytest.approx(1 - 2 ** (-1 / 5000), rel=1e-3) and theta.mean() == pytest.approx(0.005)
    before = [p.clone() for p in memory.to_gates.parameters()]
    Trainer(model, Windows(torch.arange(50), 2, 16), TrainConfig(steps=4, lr=1e-2, warmup=1)).run()
    for old, new in zip(before, memory.to_gates.parameters(), strict=True):
        assert torch.equal(old[:2], new[:2]) and not torch.equal(old[2], new[2])


# -- the twin that never writes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["mag", "lmm", "mal"])
def test_the_twin_reads_the_learned_start_and_all_its_weights_learn(variant):
    torch.manual_seed(0)
    model = TitansLM(replace(CONFIG, variant=variant, vocab_size=50, read_only=True))
    assert isinstance(model.blocks[0].mixer.memory, ReadOnlyMemory) and not memories(model)
    for block in model.blocks:
        torch.nn.init.normal_(block.mixer.memory.initial_weights[0])  # a matrix starts at 0
    tokens = torch.randint(50, (2, 40))
    whole, end = model(tokens)
    first, state = model(tokens[:, :13])
    second, state = model(tokens[:, 13:], state.detach())
    assert torch.allclose(torch.cat([first, second], 1), whole, atol=1e-5), "any split gives the same"
    same = forget(model, state)
    assert all(torch.equal(x, same.to_dict()[name]) for name, x in state.to_dict().items()), (
        "there is nothing to forget"
    )
    second.sum().backward()
    unused = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not unused, "M₀ learns from a carried state too"
    full = TitansLM(replace(CONFIG, variant=variant, vocab_size=50))
    assert model.count_parameters() < full.count_parameters()


def test_the_twin_trains_on_streams():
    model = TitansLM(replace(CONFIG, vocab_size=4000, read_only=True))
    source = Rows(((1, (Reader(TOKENS, 16, (0, 0)), Reader(TOKENS, 16, (0, 1), 0.5))),))
    losses = Trainer(model, source, TrainConfig(steps=5, lr=1e-3)).run().losses
    assert len(losses) == 5 and all(map(math.isfinite, losses))


# -- the score --------------------------------------------------------------------------------------------------------


def test_forgetting_sets_back_the_memory_and_nothing_else():
    torch.manual_seed(0)
    model = TitansLM(replace(CONFIG, vocab_size=50))
    state = model(torch.randint(50, (2, 24)))[1]
    before, after, start = state.to_dict(), forget(model, state).to_dict(), model.init_state(2).to_dict()
    changed = {name for name, x in before.items() if not torch.equal(x, after[name])}
    assert changed and all(".memory.memory." in name for name in changed)
    assert all(torch.equal(after[name], start[name]) for name in changed)
    with pytest.raises(ValueError, match="a state 3 tokens into a chunk, expected 0: read whole chunks"):
        forget(model, model(torch.randint(50, (2, 19)))[1])


def test_bits_of_a_reading_that_is_carried_and_reset():
    torch.manual_seed(0)
    model = TitansLM(replace(CONFIG, vocab_size=50)).eval()
    ids = torch.randint(50, (2, 49))
    carried, reset = read_bits(model, ids, 16), read_bits(model, ids, 16, 2)
    with torch.no_grad():
        whole = torch.nn.functional.cross_entropy(model(ids[:, :-1])[0].mT, ids[:, 1:], reduction="none") / math.log(2)
    assert torch.allclose(carried, whole, atol=1e-4)
    assert torch.allclose(reset[:, :32], carried[:, :32]) and not torch.allclose(reset[:, 32:], carried[:, 32:])


def test_bits_by_kilobyte_and_by_position():
    sizes = np.full((2, 2049), 2)
    bits = np.arange(4096.0).reshape(2, 2048)
    pieces = by_kilobyte(bits, sizes, 4)
    assert pieces.shape == (2, 4)
    assert pieces[0, 1] == pytest.approx(bits[0, 511:1023].mean() / 2), "token 512 begins at byte 1024"
    found = bits_by_position({"a": pieces, "b": (pieces + [[0.5], [1.5]]).tolist()}, (0, 1, 4))
    assert found["edges"] == [0, 1, 4] and set(found["a"]) == {"bits", "books ±"}
    assert found["b"]["gain"] == [1, 1] and found["b"]["gain, books ±"] == [0.5, 0.5]
    assert found["b"]["gain ±"] == [0.5, pytest.approx(0.5 / 5**0.5, abs=1e-5)], "2 pieces, and 6"


def test_bits_of_names_by_how_far_back_they_were_met():
    gap = " x" * 700
    text = f"and Anna saw Anna.{gap} so Anna and Bert.{gap * 4} so Anna"
    ids = np.frombuffer(text.encode(), np.uint8).astype(int)[None]
    bits = np.zeros((1, len(text) - 1))
    places = [i for i in range(len(text)) if text[i : i + 4] == "Anna"]
    for place, cost in zip(places, (8, 1, 2, 5), strict=True):
        bits[0, place - 1 : place + 3] = cost / 4
    found = bits_of_names({"a": bits, "b": bits + 1}, ids, [bytes([i]) for i in range(256)], 64)
    assert found["groups"] == ["first", "< 1 kB", "< 4 kB", "> 4 kB"] and found["words"] == [[2, 1, 1, 1]]
    assert found["a"]["bits"] == [4, 1, 2, 5] and found["a"]["by book"] == [[4, 1, 2, 5]]
    assert found["b"]["gain"] == [4] * 4 and found["b"]["gain ±"] == [0] * 4
    short = bits_of_names({"a": bits}, ids, [bytes([i]) for i in range(256)], 1)
    assert short["words"] == [[1, 1, 0, 0]] and short["a"]["bits"][2:] == [None, None]


# -- the task ---------------------------------------------------------------------------------------------------------

SMALL = LongText(
    steps=6,
    length=32,
    train_on=TRAIN[:2],
    validation=VALIDATION[:1],
    test=VALIDATION,
    half_lives=(500.0, 500.0),
    kilobytes=2,
    edges=(0, 1, 2),
    block=160,
)


@pytest.fixture
def books(tmp_path, monkeypatch):
    standin.write(tmp_path, monkeypatch, (*TRAIN[:2], *VALIDATION), 30)
    longtext._encoded.cache_clear()
    yield
    longtext._encoded.cache_clear()


def test_stages_follow_the_steps(books):
    source = SMALL.source(0)
    ends = [end for end, _ in source.stages]
    assert ends == [1, 4, 6] and len(DRILLED) == 3
    work = [[type(row).__name__ for row in rows] for _, rows in source.stages]
    assert [row.count("Drill") for row in work] == [4, 1, 1] and work[2][7] == "Drill"
    assert all(a is b for a, b in zip(source.stages[0][1][:4], source.stages[1][1][:4], strict=True))
    assert source(4).fresh.all(), "the books have their own names from here on"
    again, other = SMALL.source(0)(3), SMALL.source(1)(3)
    assert torch.equal(again.tokens, source(3).tokens) and not torch.equal(other.tokens, again.tokens)


def test_invented_names_in_training_alone(books):
    def words(editions):
        return longtext.byte_pairs().decode(longtext._encoded(SMALL.train_on, 2048, editions)[:].tolist())

    plain, invented = words(0), words(2)
    assert 1.9 < len(invented) / len(plain) < 2.1, "two editions"
    assert max(plain.count(name) for name in standin.PEOPLE) > 100
    assert set(NAME.findall(plain)) <= set(standin.PEOPLE) and len(set(NAME.findall(invented))) > 9
    assert len(longtext._encoded(SMALL.train_on, 256)) > 2 * len(longtext._encoded(SMALL.train_on, 2048))


@pytest.mark.parametrize("variant", ["mag", "swa", "twin"])
def test_an_experiment_runs_and_its_record_is_plain(books, variant):
    plain = replace(SMALL, stages=PLAIN, induction=False, copy=False, half_lives=())
    models = {"mag": (CONFIG, SMALL), "swa": (replace(CONFIG, variant="swa"), plain)}
    models |= {"twin": (replace(CONFIG, read_only=True), plain)}
    model, task = models[variant]
    config = TrainConfig(steps=6, lr=1e-3, warmup=2, schedule="flat", clip_start=1.0)
    run = Experiment("long", variant, model, config, task).run(0)
    assert json.loads(json.dumps(run)) == run
    scores, names = run["scores"]["test"], ["carried", "reset 1", "reset 4"] if variant == "mag" else ["carried"]
    assert run["scores"]["validation"]["books"] == list(VALIDATION[:1])
    assert list(scores["kilobytes"]) == names and scores["books"] == list(VALIDATION)
    assert np.shape(scores["kilobytes"]["carried"]) == (2, 2) and scores["names"]["words"][0][0] > 0
    assert scores["position"]["carried"]["bits"][0] > 1
    if variant == "mag":
        assert scores["kilobytes"]["carried"][0][1] != scores["kilobytes"]["reset 1"][0][1]


def test_an_interrupted_run_goes_on_the_same(books, tmp_path):
    experiment = Experiment("long", "x", CONFIG, TrainConfig(steps=6, lr=1e-3), SMALL)
    whole = experiment.trainer(0).run().losses
    for until in (3, 6):
        trainer = experiment.trainer(0, tmp_path / "run")
        losses = trainer.run(until).losses
        trainer.close()
    assert losses == whole


def test_a_start_that_does_not_fit(books):
    with pytest.raises(ValueError, match="half_lives: got 2, expected one for each of 1 memories"):
        SMALL.start(TitansLM(replace(CONFIG, layers=1)), 0)
    with pytest.raises(ValueError, match="vocab_size: got 300, expected 256 for bytes or 2048"):
        replace(SMALL, vocab_size=300).source(0)
    with pytest.raises(ValueError, match="kilobytes: got a book of .* tokens, expected .*: 64 kB in blocks"):
        replace(SMALL, kilobytes=64).score(TitansLM(CONFIG), 0)


def test_planned_experiments_are_of_equal_size_and_on_no_test_book():
    long = [e for e in PLANNED if e.group == "long"]
    sizes = [TitansLM(e.model).count_parameters() for e in long]
    assert max(sizes) - min(sizes) < 0.005 * max(sizes)
    assert all(e.task.steps == e.train.steps and not set(e.task.train_on) & {*TEST, *VALIDATION} for e in long)
    assert not set(PLANNED) & set(EXPERIMENTS) and len({e.hash() for e in PLANNED}) == len(PLANNED)


def test_planned_experiments_run_when_asked_for(monkeypatch, tmp_path):
    chosen = []
    monkeypatch.setattr(record_module, "record", lambda experiments, *_: chosen.append(list(experiments)))
    record_module.main(["--only", "long/mag", "--folder", str(tmp_path)])
    record_module.main(["--folder", str(tmp_path)])
    assert [e.name for e in chosen[0]] == ["mag"] and chosen[1] == list(EXPERIMENTS)


def test_a_reading_may_have_other_chunks(books):
    """The same weights, read in chunks of 16 and of 8: another anchor of the surprise, close by."""
    found = {}
    for chunk in (0, 8):
        torch.manual_seed(0)
        task, model = replace(SMALL, read_chunk=chunk, theta=0.04), TitansLM(replace(CONFIG, chunk_size=16)).eval()
        task.start(model, 0)
        with torch.no_grad():
            for memory in memories(model):  # heard well enough to tell
                memory.to_output.weight.mul_(20)
        found[chunk] = task.score(model, 0)["test"]["kilobytes"]["carried"]
        assert [memory.options["chunk_size"] for memory in memories(model)] == [16] * 2, "as it was trained, again"
    assert found[0] != found[8] and np.allclose(found[0], found[8], atol=0.5)
