"""The cloakroom of lessons 02, 06 and 07: evenings that are recorded or practised on, and two attendants.

The first attendant hears a name letter by letter, as in lessons 01 to 05, and the outer loop chooses her keys. The
second reads one word at a time through a `NeuralMemory`, and the outer loop trains all of it.
"""

from __future__ import annotations

import copy
from string import ascii_lowercase
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from titans_mini.memory.layer import NeuralMemory
from titans_mini.memory.network import MemoryNet
from titans_mini.memory.trace import Trace, record

GUESTS = """Adriana Alina Alma Amina Amanda Anita Antonia Arianna Bettina Bianca Carina Carla Clara Corinna Daria Edna
Elena Emma Erika Fatima Fiona Gianna Gina Ilana Ina Irina Joanna Johanna Julia Karin Katja Lara Laura Lena Lina Livia
Louisa Luna Madina Maja Malina Mara Marina Martina Melina Mia Mina Mira Miranda Mona Nadia Nadine Nina Nora Norma Olga
Paula Petra Regina Roxana Sabina Sandra Sara Selma Silvana Sina Sonja Stella Susanna Svetlana Tamara Tina Ulla Ursula
Valentina Vera Verena Viola Wanda Yara Yvonne Zara Zina""".split()
NEWCOMERS = GUESTS[::4]  # never in a practice evening
PRACTISED = [name for name in GUESTS if name not in NEWCOMERS]
FAMILY = "Anna Hanna Dana Diana Jana Tania Lana Ivana".split()  # lesson 02's, in no practice evening either


def spell(*names: str) -> Tensor:
    """Write names as keys: how often each letter occurs, scaled to length 1 → (N, 26)."""
    counts = [[float(name.lower().count(letter)) for letter in ascii_lowercase] for name in names]
    return F.normalize(torch.tensor(counts), dim=-1)


class Evening(NamedTuple):
    """A batch of evenings: visits (B, T, 26), their hooks (B, T), who asks (B, P, 26), and the right hooks (B, P)."""

    visits: Tensor
    hooks: Tensor
    asked: Tensor
    answers: Tensor


def moved_coats(batch: int, names: list[str], guests: int = 8, generator: torch.Generator | None = None) -> Evening:
    """Draw evenings on which every guest comes twice, the second time because her coat was moved, and then asks.

    Args:
        batch: number of evenings B.
        names: who may come.
        guests: P, different ones each evening, on as many hooks.
        generator: source of the draws.
    """

    def shuffled(n):
        return torch.rand(batch, n, generator=generator).argsort(1)

    who = shuffled(len(names))[:, :guests]
    visits, hooks = [], []
    for _ in range(2):
        order, hook = shuffled(guests), shuffled(guests)
        visits.append(who.gather(1, order))
        hooks.append(hook.gather(1, order))
    spelt = spell(*names)
    return Evening(spelt[torch.cat(visits, 1)], torch.cat(hooks, 1), spelt[who], hook)


def serve(evening: Evening, W_K: Tensor, theta: Tensor | float, eta: float = 0.0) -> Tensor:
    """Write every visit by the delta rule, then ask: the book's answers (B, P, hooks)."""
    keys, questions = (F.normalize(x @ W_K, dim=-1) for x in (evening.visits, evening.asked))
    values = F.one_hot(evening.hooks, evening.asked.shape[1]).to(keys.dtype)
    M = S = torch.zeros(len(keys), keys.shape[-1], values.shape[-1], dtype=keys.dtype)
    for k, v in zip(keys.unbind(1), values.unbind(1), strict=True):
        k, v = k[:, :, None], v[:, None]  # (B, D, 1), (B, 1, hooks)
        S = eta * S - theta * 2 * k * (k.mT @ M - v)
        M = M + S
    return questions @ M


def share_served(evening: Evening, W_K: Tensor, theta: Tensor | float, eta: float = 0.0) -> float:
    """Return the share of guests who get their coat."""
    with torch.no_grad():
        said = serve(evening, W_K, theta, eta).argmax(-1)
    return (said == evening.answers).float().mean().item()


def share_by_place(evening: Evening, W_K: Tensor, theta: Tensor | float) -> Tensor:
    """Return the share of guests served by the place of their last visit in the second round: (P,)."""
    right = serve(evening, W_K, theta).argmax(-1) == evening.answers  # (B, P)
    P = right.shape[1]
    place = (evening.answers[:, :, None] == evening.hooks[:, None, P:]).float().argmax(-1)
    return torch.stack([right[place == j].float().mean() for j in range(P)])


def practise(steps: int, names: list[str] = PRACTISED, batch: int = 64, lr: float = 0.02) -> dict[int, tuple]:
    """Train W_K and θ on evenings that are drawn afresh: outer step → (W_K, θ), eleven times."""
    generator = torch.Generator().manual_seed(0)
    W_K = torch.eye(26).requires_grad_()  # at first a key is the name as it is spelt
    theta, scale = torch.tensor(0.0).requires_grad_(), torch.tensor(1.5).requires_grad_()
    optimizer, history = torch.optim.Adam([W_K, theta, scale], lr), {}
    for step in range(steps + 1):
        if step % (steps // 10) == 0:
            history[step] = W_K.detach().clone(), theta.sigmoid().item()
        evening = moved_coats(batch, names, generator=generator)
        said = serve(evening, W_K, theta.sigmoid()) * scale.exp()
        loss = F.cross_entropy(said.flatten(0, 1), evening.answers.flatten())
        optimizer.zero_grad()
        loss.backward()  # through the answers, through all sixteen writes, into W_K and θ
        optimizer.step()
    return history


def record_evening(book: Tensor, keys: Tensor, values: Tensor, eta: Tensor | float, theta: Tensor | float) -> Trace:
    """Run a matrix memory through one evening, and record every visit.

    Args:
        book: (D, D) the memory before the first visit.
        keys: (T, D) who comes.
        values: (T, D) what she says.
        eta: momentum, a number or (T,).
        theta: step size, a number or (T,).

    Returns:
        Trace: of one batch and one head; `weights[0]` and `momentum[0]` are (T+1, 1, 1, D, D).
    """
    k, v = keys[None, None], values[None, None]  # (1, 1, T, D)
    gate = torch.ones(1, 1, len(keys), dtype=keys.dtype)
    net = MemoryNet(keys.shape[-1], depth=1, residual=False, norm=False)
    return record(k, k, v, 0 * gate, eta * gate, theta * gate, net.init_state(1, 1, (book[None],)), net=net)


def three_events(strangers: Tensor, stranger: Tensor, at: int = 8, visits: int = 48) -> tuple[dict, Tensor]:
    """Interrupt a quiet evening, on which eight guests come in turn, by a slip, a new order or a new guest.

    Args:
        strangers: (8, D) the keys of the eight, whom the book knows by heart.
        stranger: (D,) the key of the new guest, who speaks up once and then mumbles seven times, at 30 %.
        at: the visit of the event.
        visits: T.

    Returns:
        Event → (keys (T, D), values (T, D), keys to ask for, their right values, whose they are), as a `Seismograph`
        takes them, and the book before the first visit (D, D).
    """
    turn = torch.arange(visits) % 8
    hooks = torch.eye(strangers.shape[-1], dtype=strangers.dtype)[:9]
    keys, values, further = strangers[turn], hooks[turn], hooks[(torch.arange(8) + 3) % 8]
    slip, order, guest, told = values.clone(), values.clone(), keys.clone(), values.clone()
    slip[at] = hooks[6]
    order[at:] = further[turn][at:]
    loud = torch.tensor([1.0] + 7 * [0.3], dtype=keys.dtype)[:, None]
    guest[at : at + 8], told[at : at + 8] = loud * stranger, loud * hooks[8]
    events = {
        "a slip of the tongue": (keys, slip, strangers[:1], hooks[:1], "Bob"),
        "a new order": (keys, order, strangers, further, "the eight guests, by the new order"),
        "a new guest": (guest, told, stranger[None], hooks[8:], "Anna"),
    }
    return events, torch.linalg.pinv(strangers) @ hooks[:8]


# -- an attendant who reads words -----------------------------------------------------------------------------------

NAMES, HOOKS, TALK = 32, 24, 8  # tokens: 32 names, then 24 hooks, then 8 words of small talk
PAIRS, GAP = 6, 3  # six guests, three words of small talk


def word_evening(batch: int, pairs: int = PAIRS, gap: int = GAP, generator: torch.Generator | None = None):
    """Draw evenings as words: name, hook, name, hook …; small talk; then names that ask.

    Args:
        batch: number of evenings B.
        pairs: guests per evening.
        gap: words of small talk.
        generator: source of the draws.

    Returns:
        Tokens (B, 3·pairs + gap) and the hooks that are right at the last `pairs` of them, (B, pairs).
    """
    names = torch.rand(batch, NAMES, generator=generator).argsort(1)[:, :pairs]  # all different
    hooks = torch.rand(batch, HOOKS, generator=generator).argsort(1)[:, :pairs]
    told = torch.stack([names, NAMES + hooks], -1).flatten(1)  # (B, 2·pairs)
    talk = NAMES + HOOKS + torch.randint(TALK, (batch, gap), generator=generator)
    order = torch.rand(batch, pairs, generator=generator).argsort(1)  # who asks first
    return torch.cat([told, talk, names.gather(1, order)], 1), hooks.gather(1, order)


class Attendant(nn.Module):
    """Map tokens (B, T) to logits over the hooks (B, T, HOOKS), and the state; the memory is a matrix."""

    def __init__(self, conv_size: int = 2, dim: int = 32):
        """Build the layer; every one starts from the same numbers."""
        super().__init__()
        torch.manual_seed(0)  # layers draw from the global generator
        self.embed = nn.Embedding(NAMES + HOOKS + TALK, dim)
        matrix = {"heads": 1, "depth": 1, "residual": False, "norm": False, "anchor": "token"}
        self.memory = NeuralMemory(dim, conv_size=conv_size, **matrix)
        self.read_out = nn.Linear(dim, HOOKS)

    def forward(self, tokens: Tensor, state=None):
        """Read the words one after another: (B, T) to logits (B, T, HOOKS), and the state."""
        y, state = self.memory(self.embed(tokens), state)
        return self.read_out(y), state


@torch.no_grad()
def guests_served(model: nn.Module, pairs: int = PAIRS, gap: int = GAP, evenings: int = 256) -> float:
    """Return the share of guests who get their hook, on evenings that no training uses."""
    tokens, hooks = word_evening(evenings, pairs, gap, torch.Generator().manual_seed(99))
    return (model(tokens)[0][:, -pairs:].argmax(-1) == hooks).float().mean().item()


def word_blame(model: Attendant, told: Tensor, asks: Tensor, answers: Tensor, cut_at: int | None = None) -> Tensor:
    """Differentiate the logit of each right hook for the embedding of every word that was told: lengths (P, T).

    Args:
        model: an attendant.
        told: (T,) words before the questions.
        asks: (P,) names that ask.
        answers: (P,) their hooks.
        cut_at: a place in the told words where the state is detached; None for none.
    """
    T = len(told)
    x = model.embed(torch.cat([told, asks])[None]).detach().requires_grad_()
    y, state = model.memory(x[:, :cut_at])
    if cut_at is not None:
        y = torch.cat([y, model.memory(x[:, cut_at:], state.detach())[0]], 1)
    logits = model.read_out(y)[0, T:]  # (P, HOOKS)
    chosen = logits.gather(1, answers[:, None])[:, 0]
    rows = [torch.autograd.grad(logit, x, retain_graph=True)[0][0, :T] for logit in chosen]
    return torch.stack([row.norm(dim=-1) for row in rows])


def train(model: nn.Module, steps: int, batch: int = 64) -> dict[int, tuple]:
    """Run the outer loop: outer step → (share served, the model's parameters), eleven times."""
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    history = {}
    for step in range(steps + 1):
        if step % (steps // 10) == 0:
            history[step] = guests_served(model), copy.deepcopy(model.state_dict())
        tokens, hooks = word_evening(batch, generator=generator)
        said = model(tokens)[0][:, -PAIRS:]  # (B, pairs, HOOKS): only the questions count
        loss = F.cross_entropy(said.flatten(0, 1), hooks.flatten())
        optimizer.zero_grad()
        loss.backward()  # through the answers, through every write, into the parameters
        optimizer.step()
    return history
