"""The experiments that `make results` records for notebook 12."""

from __future__ import annotations

from dataclasses import replace

from titans_mini.models.config import TitansConfig
from titans_mini.train.babi import Babi
from titans_mini.train.config import TrainConfig
from titans_mini.train.experiments import SEEDS, Experiment
from titans_mini.train.haystories import HayStories
from titans_mini.train.language import Language
from titans_mini.train.longtext import PLAIN, LongText, Stage
from titans_mini.train.needle import Needle

NEEDLE = Needle()
# About 24,000 weights and 1,000 steps for every model. One block with a memory binds neighbouring tokens by its
# convolution; attention needs two blocks to find a key and read the token beside it, so the models without a memory
# get two, each with a narrower MLP. The window holds only two pairs: in training every pair is asked three times, and
# a wider window finds the earlier answer instead of the needle ("window 16" shows the effect).
SMALL = TitansConfig(
    variant="lmm",
    vocab_size=NEEDLE.vocab_size,
    dim=32,
    layers=1,
    heads=1,
    mlp_ratio=4,
    window=4,
    segment=16,
    chunk_size=16,
    memory_expansion=2,
    half_life=(50_000.0, 50_000.0),
    max_theta=0.25,
    gate="add",
)
STEPS = TrainConfig(steps=1000, lr=8e-3, warmup=40)
SAME_STATE = 96  # tokens whose keys and values in two layers are as many numbers as the state of the memory alone
SAME_OPERATIONS = 2000  # steps of the transformer that cost as much as 1,000 of the dearest model with a memory, MAC
MATRIX = {"memory_depth": 1, "residual": False, "norm": False}
WIDE = 16  # the window that is too wide, in tokens


def variant(name: str, **changes: object) -> TitansConfig:
    """Return the small model as another variant, with the given fields changed."""
    return replace(SMALL, variant=name, **changes)


def needle() -> list[Experiment]:
    """Return the experiments on the toy needle: every variant, and the three windowed ones with a window too wide."""
    two = {"layers": 2, "mlp_ratio": 2.33}
    models = {
        "lmm": SMALL,
        "mac": variant("mac", mlp_ratio=8 / 3),
        "mag": variant("mag", mlp_ratio=8 / 3),
        "mal": variant("mal", mlp_ratio=8 / 3),
        "delta": variant("delta", mlp_ratio=5.3),
        "transformer": variant("transformer", **two),
        "swa": variant("swa", **two),
    }
    wide = {f"{name}, window {WIDE}": replace(models[name], window=WIDE) for name in ("mag", "mal", "swa")}
    return [Experiment("needle", name, model, STEPS, NEEDLE) for name, model in (models | wide).items()]


def ablations() -> list[Experiment]:
    """Return the rows of the paper's ablation table, on the memory alone: "needle/lmm" with one thing changed."""
    models = {
        "no momentum": replace(SMALL, momentum=False),
        "no forgetting": replace(SMALL, forgetting=False),
        "no convolution": replace(SMALL, conv_size=1),
        "no persistent memory": replace(SMALL, persistent=0),
        "matrix memory": replace(SMALL, mlp_ratio=5, **MATRIX),
        "short half-life": replace(SMALL, half_life=(100.0, 100.0)),
    }
    return [Experiment("ablations", name, model, STEPS, NEEDLE) for name, model in models.items()]


def stories() -> list[Experiment]:
    """Return the experiment on real bAbI qa1. The convolution of eight tokens reaches from the room to the person."""
    task = Babi()
    model = TitansConfig(
        variant="lmm",
        vocab_size=task.vocab_size,
        dim=48,
        layers=2,
        heads=2,
        mlp_ratio=2,
        conv_size=8,
        chunk_size=16,
        memory_expansion=2,
        half_life=(500.0, 500.0),
        max_theta=0.1,
    )
    return [Experiment("babi", "lmm", model, TrainConfig(steps=800, lr=4e-3, warmup=40), task)]


def text() -> list[Experiment]:
    """Return the experiments on the bytes of a book: a memory beside a window, and the window alone.

    The models have no persistent tokens: these stand at position 0, and the distance to them grows beyond the trained
    range. "swa, prefix" has them, to show the effect.
    """
    task = Language()
    base = TitansConfig(
        variant="mag",
        dim=48,
        layers=2,
        heads=2,
        mlp_ratio=1.5,
        window=32,
        persistent=0,
        chunk_size=16,
        memory_expansion=2,
        max_theta=0.1,
    )
    window = replace(base, variant="swa", mlp_ratio=3.6)
    models = {"mag": base, "swa": window, "swa, prefix": replace(window, persistent=4)}
    config = TrainConfig(steps=160, lr=4e-3, warmup=20)
    return [Experiment("text", name, model, config, task) for name, model in models.items()]


# A matrix memory beside a window of 64 pieces, about 859,000 weights.
READER = TitansConfig(
    variant="mag",
    vocab_size=2048,
    dim=128,
    heads=1,
    attention_heads=4,
    window=64,
    segment=64,
    persistent=0,
    gate="add",
    **MATRIX,
    chunk_size=64,
    max_theta=0.05,
)
# Models that cannot remember read books as they are in every step: drills and invented names would only cost them.
LONG_STEPS = 2500
READERS = {
    "mag": READER,
    "mag, never writes": replace(READER, read_only=True, mlp_ratio=3.375),
    "swa": replace(READER, variant="swa", attention_conv=4, mlp_ratio=4.6875),
}
FORGETS = LongText(stages=PLAIN, induction=False, copy=False, half_lives=())


def _reading(group: str, name: str, model: TitansConfig, task: LongText, steps: int, **changes: object) -> Experiment:
    """Return an experiment on novels: a flat rate, and M₀ clipped apart."""
    config = TrainConfig(steps=steps, lr=4e-3, warmup=100, final_lr=0.03, schedule="flat", clip_start=1.0)
    seeds = changes.pop("seeds", (0,))
    return Experiment(group, name, model, replace(config, **changes), replace(task, steps=steps), seeds=seeds)


# What the search found: drills for a start, and one row of them and invented names to the end, for a memory; invented
# names for a window too.
START = Stage(0.15, True, (4, 5), (6, 7))
INVENTED = (START, Stage(1.0, True, (), (7,)))
# A table of contents has rows of dots: one key many times in a chunk, all corrected from the chunk's start, and with
# θ up to 0.05 a chunk of 64 swings past its target. Chunks of 16 tokens are within the layer's own bound, θ ≤ 1/C.
TASKS = {
    "mag": LongText(stages=INVENTED, read_chunk=16),
    "mag, never writes": FORGETS,
    "swa": replace(FORGETS, stages=(Stage(1.0, True),)),
}


def long_search() -> list[Experiment]:
    """Return what was tried for each reader of novels, on the validation books alone: one seed, a fifth of the steps.

    Every model got three learning rates. The memory also got four orders of its lessons, longer half-lives and plain
    books, its rivals books with invented names.
    """
    steps, remembers, forgets = 500, LongText(test=()), replace(FORGETS, test=())
    found = []
    for name, model in READERS.items():
        task = remembers if name == "mag" else forgets
        found += [_reading("search", f"{name}, lr {lr:g}", model, task, steps, lr=lr) for lr in (2e-3, 4e-3, 8e-3)]
    lessons = {
        "drills to the end": (
            Stage(0.3, True, (4, 5), (6, 7)),
            Stage(2 / 3, True, (4,), (7,)),
            Stage(1.0, False, (), (7,)),
        ),
        "invented names to the end": INVENTED,
        "invented names for a start": (START, Stage(1.0, False, (), (7,))),
        "plain books": PLAIN,
    }
    for name, stages in lessons.items():
        found.append(_reading("search", f"mag, {name}", READER, replace(remembers, stages=stages), steps))
    longer = replace(remembers, half_lives=(20_000.0, 50_000.0))
    found.append(_reading("search", "mag, longer half-lives", READER, longer, steps))
    invented = replace(forgets, stages=(Stage(1.0, True),))
    for name, model in list(READERS.items())[1:]:
        found.append(_reading("search", f"{name}, invented names", model, invented, steps))
    whole = LongText(stages=INVENTED)  # all steps, and read as it was trained: see TASKS
    found.append(_reading("search", "mag, chunks of 64 while reading", READER, whole, LONG_STEPS))
    # The twin is trained on real names, this memory on invented ones: what if the last third were real for it too?
    real = (START, Stage(2 / 3, True, (), (7,)), Stage(1.0, False, (), (7,)))
    originals = replace(TASKS["mag"], stages=real, test=())
    return [*found, _reading("search", "mag, original names in the last third", READER, originals, LONG_STEPS)]


def long_text() -> list[Experiment]:
    """Return the experiments on novels read as streams: a memory and its rivals, each as the search says."""
    return [_reading("long", name, model, TASKS[name], LONG_STEPS, seeds=SEEDS) for name, model in READERS.items()]


def long_shapes() -> list[Experiment]:
    """Return other memories on the same novels, of equal size in all: deeper ones, one alone, and memory as context.

    All layers of the deep ones are 128 × 128, with the paper's residual and norm; the MLP behind them is the narrower.
    """
    deep = replace(READER, memory_expansion=1, residual=True, norm=True)
    models = {"mag": READER}
    models |= {f"mag, {n} layers": replace(deep, memory_depth=n, mlp_ratio=(9 - n) / 3) for n in (2, 3, 4)}
    models |= {
        "lmm": replace(READER, variant="lmm", mlp_ratio=4),
        "mac": replace(READER, variant="mac", writes="x", sees="own"),
        "mac, as printed": replace(READER, variant="mac"),
    }
    found = [_reading("shapes", name, model, TASKS["mag"], 1000) for name, model in models.items()]
    twin = "mag, never writes"  # the same budget for the twin: a point between the search's 500 steps and all 2,500
    return [*found, _reading("shapes", twin, READERS[twin], TASKS[twin], 1000)]


def hay_stories() -> list[Experiment]:
    """Return the experiments on BABILong: a memory alone, and its twin with a window of 64 words and a convolution.

    About 177,000 weights, the same texts and steps for both. The convolution of eight words reaches from the room to
    the person, in the twin's attention too. Facts have to last for 16,000 words although training ends at 1,536:
    half-lives have a floor far beyond.
    """
    task = HayStories()
    base = TitansConfig(
        variant="lmm",
        vocab_size=task.vocab_size,
        dim=64,
        mlp_ratio=2,
        persistent=0,
        memory_expansion=2,
        conv_size=8,
        half_life=(200_000.0, 1_000_000.0),
        min_half_life=100_000.0,
        max_theta=0.1,
    )
    models = {"lmm": base, "swa": replace(base, variant="swa", attention_conv=8, mlp_ratio=3.125)}
    config = TrainConfig(steps=task.stages[-1].until, lr=4e-3, warmup=40)
    return [Experiment("babilong", name, model, config, task, seeds=(0,)) for name, model in models.items()]


def mac_choices() -> list[Experiment]:
    """Return MAC on the toy needle with its open choices: can eq. 24 to the letter learn to bind, and what else can?

    A search of one seed each; what won was then trained with three seeds, see `rivals`.
    """
    base = variant("mac", mlp_ratio=8 / 3)
    choices: dict[str, dict] = {
        "y, causal": {},
        "y, own": {"sees": "own"},
        "x+y, causal": {"writes": "x+y"},
        "x+y, own": {"writes": "x+y", "sees": "own"},
        "x, causal": {"writes": "x"},
        "x, own": {"writes": "x", "sees": "own"},
        "y, causal, convolution": {"attention_conv": 4},
        "y, own, convolution": {"sees": "own", "attention_conv": 4},
        "y, causal, psh": {"order": "psh"},
        "y, causal, 4 long-term": {"long_term": 4},
        "y, causal, two layers": {"layers": 2, "mlp_ratio": 1.0},
        "y, own, two layers": {"sees": "own", "layers": 2, "mlp_ratio": 1.0},
    }
    found = [
        Experiment("mac", name, replace(base, **changes), STEPS, NEEDLE, seeds=(0,))
        for name, changes in choices.items()
    ]
    for lr in (2e-3, 2e-2):
        found.append(Experiment("mac", f"y, causal, lr {lr:g}", base, replace(STEPS, lr=lr), NEEDLE, seeds=(0,)))
    slow = replace(NEEDLE, stages=((300, 1), (600, 2)))
    found.append(Experiment("mac", "y, causal, slow curriculum", base, replace(STEPS, steps=2000), slow, seeds=(0,)))
    return found


def probes() -> list[Experiment]:
    """Return four of MAC's choices again, now examined: what is written, where attention looks, which read answers."""
    base, task = variant("mac", mlp_ratio=8 / 3), replace(NEEDLE, lengths=(64, 2048), probe=True)
    return [
        Experiment("probe", f"{writes}, {sees}", replace(base, writes=writes, sees=sees), STEPS, task, seeds=(0,))
        for writes in ("y", "x")
        for sees in ("causal", "own")
    ]


def mal_choices() -> list[Experiment]:
    """Return MAL on the toy needle, a search on the seed that did worst: what lets it leave its plateau?"""
    base = variant("mal", mlp_ratio=8 / 3, min_half_life=10_000.0)
    choices: dict[str, tuple[dict, dict]] = {
        "as in rivals": ({}, {}),
        "no floor": ({"min_half_life": 0.0}, {}),
        "lr 4e-3": ({}, {"lr": 4e-3}),
        "lr 1.6e-2": ({}, {"lr": 1.6e-2}),
        "2,000 steps": ({}, {"steps": 2000}),
        "no residual": ({"mal_residual": False}, {}),
        "matrix memory": ({**MATRIX, "mlp_ratio": 4}, {}),
        "no persistent tokens": ({"persistent": 0}, {}),
    }
    return [
        Experiment("mal", name, replace(base, **model), replace(STEPS, **train), NEEDLE, seeds=(1,))
        for name, (model, train) in choices.items()
    ]


def rivals() -> list[Experiment]:
    """Return the fair comparison on the toy needle: the same convolution on q, k, v for all, attention included."""
    two = {"layers": 2, "mlp_ratio": 2.33}
    conv = {"attention_conv": 4}
    models = {
        "lmm": SMALL,
        "mac": variant("mac", mlp_ratio=8 / 3, writes="x", sees="own", **conv),
        "mac, none in attention": variant("mac", mlp_ratio=8 / 3, writes="x", sees="own"),
        "mag": variant("mag", mlp_ratio=8 / 3, **conv),
        "mal": variant("mal", mlp_ratio=8 / 3, **conv),
        "mal, none in attention": variant("mal", mlp_ratio=8 / 3, min_half_life=10_000.0),  # and a floor under α
        "mal, no persistent tokens": variant("mal", mlp_ratio=8 / 3, min_half_life=10_000.0, persistent=0),
        "mal, matrix memory": variant("mal", mlp_ratio=4, min_half_life=10_000.0, **MATRIX),
        "delta": variant("delta", mlp_ratio=5.3),
        "gated-delta": variant("gated-delta", mlp_ratio=5.3),
        "transformer": variant("transformer", **two, **conv),
        "swa": variant("swa", **two, **conv),
        "swa, same state": variant("swa", **two, **conv, window=SAME_STATE),
        "transformer, same operations": variant("transformer", **two, **conv),
    }
    longer = {"transformer, same operations": replace(STEPS, steps=SAME_OPERATIONS)}
    return [Experiment("rivals", name, model, longer.get(name, STEPS), NEEDLE) for name, model in models.items()]


PLANNED: tuple[Experiment, ...] = (
    *long_search(),
    *long_text(),
    *long_shapes(),
    *hay_stories(),
)  # recorded when they are asked for by name, hours in all
# groups of one seed each: what was tried, or what is too dear; what won is trained again with three
SEARCHES = ("mac", "mal", "probe", "search", "shapes", "babilong")
EXPERIMENTS: tuple[Experiment, ...] = (
    *needle(),
    *ablations(),
    *mac_choices(),
    *probes(),
    *mal_choices(),
    *rivals(),
    *stories(),
    *text(),
)
