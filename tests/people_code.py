"""How people write code: outputs, checkpoints, recursion, helpers, hooks, loops."""

from __future__ import annotations

import functools
import math
from collections import OrderedDict, deque, namedtuple
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from people_cases import Part, case, frames, gain, images, weight
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

LAST = (2, 7, 4)
IMAGE = (2, 1, 8, 8)


# -- what a model returns -------------------------------------------------------------------------


@dataclass
class Answer:
    logits: Tensor
    states: tuple[Tensor, ...] = ()
    loss: Tensor | None = None
    notes: dict[str, Any] = field(default_factory=dict)


class Record(dict[str, Any]):
    def __getattr__(self, name: str) -> Any:
        return self[name]


class Slotted:
    __slots__ = ("hidden", "logits")

    def __init__(self, logits: Tensor, hidden: Tensor) -> None:
        self.logits, self.hidden = logits, hidden


class Result:
    def __init__(self, logits: Tensor, hidden: Tensor) -> None:
        self._logits, self._more = logits, {"hidden": [hidden]}


class Ordered(OrderedDict[str, Any]):
    """transformers' ModelOutput: a dictionary with attributes."""

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)
        for name, value in values.items():
            setattr(self, name, value)


class Named(NamedTuple):
    logits: Tensor
    hidden: Tensor


Plain = namedtuple("Plain", "logits hidden")


def answering(wrap: Callable[[Tensor, Tensor], Any]) -> nn.Module:
    """The hidden channels are part of what is returned, so they stay; the others can go."""

    def forward(n: Any, x: Tensor) -> Any:
        hidden = n.a(x).relu()
        return wrap(n.c(n.b(hidden).relu()), hidden)

    return Part(forward, a=nn.Linear(4, 8), b=nn.Linear(8, 6), c=nn.Linear(6, 3))


@case("outputs", "cut", LAST)
def output_in_a_dataclass() -> nn.Module:
    return answering(lambda y, h: Answer(y, (h,)))


@case("outputs", "cut", LAST)
def output_in_a_dataclass_in_its_notes() -> nn.Module:
    return answering(lambda y, h: Answer(y, notes={"hidden": {"first": h}, "name": "x", "n": 3}))


@case("outputs", "cut", LAST)
def output_in_a_namespace() -> nn.Module:
    return answering(lambda y, h: SimpleNamespace(logits=y, inner=SimpleNamespace(hidden=h)))


@case("outputs", "cut", LAST)
def output_in_a_dictionary_of_its_own_kind() -> nn.Module:
    return answering(lambda y, h: Record(logits=y, hidden=h))


@case("outputs", "cut", LAST)
def output_in_an_ordered_dictionary_with_attributes() -> nn.Module:
    return answering(lambda y, h: Ordered(logits=y, hidden=h))


@case("outputs", "cut", LAST)
def output_in_a_list_of_objects() -> nn.Module:
    return answering(lambda y, h: [Answer(a, (b,)) for a, b in zip(y, h, strict=True)])


@case("outputs", "cut", LAST)
def output_in_slots() -> nn.Module:
    return answering(Slotted)


@case("outputs", "cut", LAST)
def output_in_private_attributes() -> nn.Module:
    return answering(Result)


@case("outputs", "cut", LAST)
def output_in_a_named_tuple() -> nn.Module:
    return answering(Named)


@case("outputs", "cut", LAST)
def output_in_a_plain_named_tuple() -> nn.Module:
    return answering(lambda y, h: (Plain(y, None), [Plain(None, h)]))


@case("outputs", "cut", LAST)
def output_in_a_set_of_pairs() -> nn.Module:
    return answering(lambda y, h: {"pairs": [("y", y), ("h", h)], "none": None})


@case("outputs", "refused", LAST, refusal="deque")
def output_in_a_queue() -> nn.Module:
    return answering(lambda y, h: deque([y, h]))


@case("outputs", "refused", LAST, refusal="generator")
def output_of_a_generator() -> nn.Module:
    return answering(lambda y, h: (t for t in (y, h)))


@case("outputs", "refused", LAST, refusal="iterator")
def output_of_an_iterator() -> nn.Module:
    return answering(lambda y, h: {"items": iter([y, h])})


@case("outputs", "cut", LAST)
def an_output_that_refers_to_itself() -> nn.Module:
    def wrap(y: Tensor, h: Tensor) -> Any:
        answer = SimpleNamespace(logits=y, hidden=h)
        answer.self = answer
        return answer

    return answering(wrap)


@case("outputs", "cut", LAST)
def the_same_output_twice() -> nn.Module:
    return answering(lambda y, h: {"a": y, "b": [y, y.mean()], "c": h.sum(-1)})


@case("outputs", "cut", LAST, options={"output_transform": lambda output: output["logits"]})
def hidden_states_that_nobody_needs() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Any:
        states = [n.a(x)]
        states.append(n.b(states[-1].relu()))
        return {"logits": n.c(states[-1]), "states": states}

    return Part(forward, a=nn.Linear(4, 8), b=nn.Linear(8, 6), c=nn.Linear(6, 3))


@case("outputs", "cut", LAST, options={"output_transform": lambda output: output.logits.mean(1)})
def a_loss_of_an_object() -> nn.Module:
    return Part(lambda n, x: Answer(n.b(n.a(x)), (n.a(x),)), a=nn.Linear(4, 8), b=nn.Linear(8, 3))


@case("outputs", "cut", LAST, options={"forward_fn": lambda net, x: net.describe(x, scale=2.0)})
def called_by_another_method() -> nn.Module:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 3)

        def describe(self, x: Tensor, scale: float) -> Tensor:
            return self.b(self.a(x).relu() * scale)

        def forward(self, x: Tensor) -> Tensor:
            raise NotImplementedError

    return Own()


@case("outputs", "cut", LAST, options={"forward_fn": lambda net, x: net(frames=x, lengths=[7, 5])})
def called_by_keywords() -> nn.Module:
    def forward(n: Any, frames: Tensor, lengths: list[int]) -> Tensor:
        mask = torch.arange(frames.size(1))[None] < torch.tensor([*lengths, 3])[: len(frames), None]
        return n.b(n.a(frames) * mask.unsqueeze(-1))

    return Part(forward, a=nn.Linear(4, 8), b=nn.Linear(8, 3))


# -- checkpoints, functions, loops ----------------------------------------------------------------


def mlp(wide: int = 8, inner: int = 12) -> nn.Sequential:
    return nn.Sequential(nn.Linear(wide, inner), nn.GELU(), nn.Linear(inner, wide))


@case("code", "cut", LAST)
def checkpointed_block() -> nn.Module:
    return frames(Part(lambda n, x: x + checkpoint(n.body, x, use_reentrant=False), body=mlp()))


@case("code", "cut", LAST)
def checkpointed_block_the_old_way() -> nn.Module:
    return frames(Part(lambda n, x: x + checkpoint(n.body, x, use_reentrant=True), body=mlp()))


@case("code", "cut", LAST)
def checkpointed_sequence() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        return checkpoint_sequential(n.body, 2, x, use_reentrant=False)

    return frames(Part(forward, body=mlp()))


@case("code", "cut", LAST)
def checkpointed_function() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        def inner(y: Tensor) -> Tensor:
            return n.norm(y) * y.mean(-1, keepdim=True).sigmoid()

        return checkpoint(inner, x, use_reentrant=False)

    return frames(Part(forward, norm=nn.LayerNorm(8)))


@case("code", "cut", LAST)
def one_block_several_times() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        for _ in range(3):
            x = x + n.body(n.norm(x))
        return x

    return frames(Part(forward, body=mlp(), norm=nn.LayerNorm(8)))


@case("code", "cut", LAST)
def one_norm_by_hand_several_times() -> nn.Module:
    """The same call meets two streams of one width."""

    def norm(n: Any, x: Tensor) -> Tensor:
        return n.g * x * (x.pow(2).mean(-1, keepdim=True) + 1e-6).rsqrt()

    def forward(n: Any, x: Tensor) -> Tensor:
        y = n.a(n.norm(x)).relu()
        return x + n.b(n.norm(y))

    held = {"a": nn.Linear(8, 8), "b": nn.Linear(8, 8)}
    return frames(Part(forward, norm=Part(norm, g=gain(8)), **held))


@case("code", "cut", LAST)
def one_function_of_streams_of_many_widths() -> nn.Module:
    """A helper without state that pools over channels, for eight channels and for twelve."""

    def centred(x: Tensor) -> Tensor:
        return x - x.mean(-1, keepdim=True)

    def forward(n: Any, x: Tensor) -> Tensor:
        return n.b(centred(n.a(centred(x)).tanh()))

    return frames(Part(forward, a=nn.Linear(8, 12), b=nn.Linear(12, 8)))


@case("code", "cut", LAST)
def one_function_in_a_loop_over_widths() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        for layer in n.layers:
            x = layer(x / (1 + x.abs().mean(-1, keepdim=True)))
        return x

    layers = nn.ModuleList([nn.Linear(8, 12), nn.Linear(12, 6), nn.Linear(6, 8)])
    return frames(Part(forward, layers=layers))


@case("code", "cut", LAST)
def one_module_of_streams_of_many_widths() -> nn.Module:
    centre = Part(lambda n, x: x - x.mean(-1, keepdim=True))

    def forward(n: Any, x: Tensor) -> Tensor:
        return n.b(n.centre(n.a(n.centre(x)).tanh()))

    return frames(Part(forward, centre=centre, a=nn.Linear(8, 12), b=nn.Linear(12, 8)))


@case("code", "cut", LAST)
def recursion() -> nn.Module:
    """A tree of frames, halved again and again."""

    def forward(n: Any, x: Tensor) -> Tensor:
        def reduce(part: Tensor) -> Tensor:
            if part.size(1) == 1:
                return part
            half = part.size(1) // 2
            both = torch.cat([reduce(part[:, :half]), reduce(part[:, half:])], -1)
            return n.join(both).tanh()

        return reduce(x)

    return frames(Part(forward, join=nn.Linear(16, 8)))


class Nested(nn.Module):
    """A U-Net that holds itself."""

    def __init__(self, wide: int, depth: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(wide, wide + 2, 3, 2, 1), nn.Conv2d(wide + 2, wide, 1)
        self.inner = Nested(wide + 2, depth - 1) if depth else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.up(self.inner(self.down(x).relu()))
        return x + F.interpolate(y, x.shape[-2:], mode="bilinear", align_corners=False)


@case("code", "cut", IMAGE)
def a_network_in_itself() -> nn.Module:
    return images(Nested(8, 2))


@case("code", "cut", LAST)
def comprehensions_and_lambdas() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        act = {"relu": lambda y: y.relu(), "none": lambda y: y}["relu"]
        return sum(act(layer(x)) for layer in n.layers) / len(n.layers)

    return frames(Part(forward, layers=nn.ModuleList(nn.Linear(8, 6) for _ in range(3))), left=6)


@case("code", "cut", LAST)
def gates_in_a_comprehension() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        parts = [p * p.mean(-1, keepdim=True).sigmoid() for p in (n.a(x), n.b(x))]
        return torch.cat(parts, -1)

    return frames(Part(forward, a=nn.Linear(8, 6), b=nn.Linear(8, 5)), left=11)


@case("code", "cut", LAST)
def folded_by_reduce() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        return functools.reduce(lambda y, layer: y + layer(y).tanh(), n.layers, x)

    return frames(Part(forward, layers=nn.ModuleList(nn.Linear(8, 8) for _ in range(3))))


def swish(x: Tensor, beta: float = 1.0) -> Tensor:
    return x * torch.sigmoid(beta * x)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return x * (1 + scale) + shift


@case("code", "cut", LAST)
def helpers_of_the_file() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        return modulate(swish(x), *n.to_both(x).chunk(2, dim=-1))

    return frames(Part(forward, to_both=nn.Linear(8, 16)))


@case("code", "cut", LAST)
def helpers_with_arguments_bound() -> nn.Module:
    quick = functools.partial(swish, beta=1.702)
    norm = functools.partial(F.normalize, dim=-1)
    return frames(Part(lambda n, x: quick(n.a(norm(x))), a=nn.Linear(8, 6)), left=6)


def traced(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


@case("code", "cut", LAST)
def a_decorated_forward() -> nn.Module:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(8, 6)

        @traced
        def forward(self, x: Tensor) -> Tensor:
            return self.a(x - x.mean(-1, keepdim=True))

    return frames(Own(), left=6)


class Swish(torch.autograd.Function):
    """Saves memory by a backward of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        s = torch.sigmoid(x)
        return grad * (s * (1 + x * (1 - s)))


class Length(torch.autograd.Function):
    """Pools over channels inside."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # type: ignore[override]
        y = x / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt()
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        return grad


@case("code", "cut", LAST)
def an_activation_with_its_own_gradient() -> nn.Module:
    return frames(lambda x: Swish.apply(x))


@case("code", "safe", LAST)
def a_norm_with_its_own_gradient() -> nn.Module:
    return frames(lambda x: Length.apply(x))


@case("code", "cut", LAST)
def a_scripted_helper() -> nn.Module:
    @torch.jit.script
    def fused(x: Tensor, y: Tensor) -> Tensor:
        return torch.tanh(x) * torch.sigmoid(y)

    return frames(
        Part(lambda n, x: fused(n.a(x), n.b(x)), a=nn.Linear(8, 6), b=nn.Linear(8, 6)), left=6
    )


@case("code", "cut", LAST)
def a_part_without_gradients() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        with torch.no_grad():
            scale = x.abs().amax((1, 2), keepdim=True)
        return n.a(x / (scale + 1))

    return frames(Part(forward, a=nn.Linear(8, 6)), left=6)


@case("code", "cut", LAST)
def a_part_in_full_precision() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return n.a(x.softmax(1)).to(x.dtype)

    return frames(Part(forward, a=nn.Linear(8, 6)), left=6)


@case("code", "cut", LAST)
def hooks() -> nn.Module:
    layer = nn.Linear(8, 6)
    layer.register_forward_pre_hook(lambda _, args: (args[0] * 0.5,))
    layer.register_forward_hook(lambda _, __, output: output.tanh())
    return frames(layer, left=6)


@case("code", "cut", LAST)
def outputs_caught_by_a_hook() -> nn.Module:
    """Features are read from a dictionary that hooks fill."""

    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(8, 6), nn.Linear(6, 6), nn.Linear(12, 8)
            self.caught: dict[str, Tensor] = {}

        def forward(self, x: Tensor) -> Tensor:
            handle = self.a.register_forward_hook(
                lambda _, __, output: self.caught.__setitem__("a", output)
            )
            y = self.b(self.a(x).relu())
            handle.remove()
            return self.c(torch.cat([y, self.caught.pop("a")], -1))

    return frames(Own())


@case("code", "cut", LAST)
def modules_by_name() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        for i in range(3):
            x = x + getattr(n, f"layer{i}")(n.acts["gelu" if i else "tanh"](x))
        return x

    acts = nn.ModuleDict({"gelu": nn.GELU(), "tanh": nn.Tanh()})
    return frames(Part(forward, acts=acts, **{f"layer{i}": nn.Linear(8, 8) for i in range(3)}))


@case("code", "cut", LAST)
def a_sequence_of_its_own_kind() -> nn.Module:
    class Summed(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            for layer in self:
                x = x + layer(x)
            return x

    return frames(Summed(nn.Linear(8, 8), nn.LayerNorm(8), mlp()))


@case("code", "cut", LAST)
def skips_in_a_list_taken_from_its_end() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        skips = []
        for layer in n.down:
            skips.append(x)
            x = layer(x).relu()
        for layer in n.up:
            x = layer(torch.cat([x, skips.pop()], -1))
        return x

    down = nn.ModuleList([nn.Linear(8, 10), nn.Linear(10, 12)])
    up = nn.ModuleList([nn.Linear(22, 10), nn.Linear(18, 8)])
    return frames(Part(forward, down=down, up=up))


@case("code", "cut", LAST)
def a_branch_by_its_configuration() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        if n.norm_first:
            return x + n.body(n.norm(x))
        return n.norm(x + n.body(x))

    return frames(Part(forward, norm_first=False, norm=nn.LayerNorm(8), body=mlp()))


@case("code", "cut", LAST)
def a_branch_by_a_value() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        return n.a(x) if float(n.gate.detach().sum()) > 0 else n.a(-x)

    return frames(Part(forward, a=nn.Linear(8, 6), gate=gain(1)), left=6)


@case("code", "safe", LAST)
def a_branch_by_the_width() -> nn.Module:
    return frames(lambda x: x.tanh() if x.size(-1) > 6 else x.sin())


@case("code", "cut", LAST)
def a_mapped_function() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        return torch.func.vmap(n.a)(x)

    return frames(Part(forward, a=nn.Linear(8, 6)), left=6)


@case("code", "cut", LAST)
def a_function_of_parameters() -> nn.Module:
    """The weights of a layer as arguments (torch.func)."""

    def forward(n: Any, x: Tensor) -> Tensor:
        return torch.func.functional_call(n.a, dict(n.a.named_parameters()), (x,))

    return frames(Part(forward, a=nn.Linear(8, 6)), left=6)


@case("code", "safe", LAST)
def through_numpy() -> nn.Module:
    return frames(lambda x: torch.from_numpy(x.detach().numpy() * 2))


@case("code", "cut", LAST)
def written_with_out() -> nn.Module:
    def forward(x: Tensor) -> Tensor:
        y = torch.empty_like(x)
        torch.mul(x, 2.0, out=y)
        return torch.add(y, x, alpha=0.5)

    return frames(forward)


@case("code", "cut", LAST)
def operators_of_every_kind() -> nn.Module:
    def forward(x: Tensor) -> Tensor:
        y = -(x.abs() ** 1.5) + 2 / (1 + x.exp()) - x % 3
        y = torch.lerp(y, x, 0.25).clamp_(-2, 2)
        y = torch.addcmul(y, x, x.sigmoid(), value=0.5)
        return torch.where(y.isnan(), 0.0, y) + F.softplus(x).log1p() + x.erf() + math.pi

    return frames(forward)


@case("code", "cut", LAST)
def activations_of_every_kind() -> nn.Module:
    layers = [nn.ELU(), nn.Hardtanh(), nn.LeakyReLU(), nn.LogSigmoid(), nn.Mish(), nn.SELU()]
    layers += [nn.Softsign(), nn.Threshold(0.1, 0.0), nn.Hardswish(), nn.CELU(), nn.Softshrink()]
    return frames(*layers, nn.Dropout(), nn.Identity())


@case("code", "cut", LAST)
def a_shared_layer_of_two_towers() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        a, b = n.tower(x), n.tower(x.flip(1))
        return n.head(torch.cat([a, b, (a - b).abs()], -1))

    return frames(Part(forward, tower=mlp(8, 6), head=nn.Linear(24, 5)), left=5)


@case("code", "cut", LAST)
def iterations_that_unroll() -> nn.Module:
    """A learned optimisation: one weight and its transpose (LISTA with its own weights)."""

    def forward(n: Any, x: Tensor) -> Tensor:
        y = n.we(x)
        z = F.softshrink(y, 0.05)
        for _ in range(3):
            z = F.softshrink(y + n.s(z), 0.05)
        return n.decode(z)

    held = {"we": nn.Linear(8, 12), "s": nn.Linear(12, 12, bias=False), "decode": nn.Linear(12, 8)}
    return frames(Part(forward, **held))


@case("code", "cut", LAST)
def auxiliary_heads_in_training_only() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Any:
        y = n.body(x)
        return (n.head(y), n.aux(y)) if n.training else n.head(y)

    return Part(forward, body=nn.Linear(4, 8), head=nn.Linear(8, 3), aux=nn.Linear(8, 2))


@case("code", "cut", LAST)
def parameters_in_a_list() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        for scale, shift in zip(n.scales, n.shifts, strict=True):
            x = (x * scale + shift).tanh()
        return x

    made = {name: nn.ParameterList(gain(8) for _ in range(2)) for name in ("scales", "shifts")}
    return frames(Part(forward, **made))


@case("code", "cut", LAST)
def stochastic_depth() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        y = n.body(x)
        if n.training:
            keep = torch.rand(x.shape[0], *[1] * (x.dim() - 1)) < 0.9
            y = y / 0.9 * keep
        return x + y

    return frames(Part(forward, body=mlp()))


@case("code", "cut", LAST)
def lazily_made_positions() -> nn.Module:
    """A cache that is filled when it is first needed."""

    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix, self.cache = nn.Linear(8, 8), None

        def forward(self, x: Tensor) -> Tensor:
            if self.cache is None or self.cache.size(0) < x.size(1):
                self.cache = torch.arange(x.size(1), dtype=x.dtype)[:, None].sin()
            return self.mix(x + self.cache[: x.size(1)])

    return frames(Own())


@case("code", "safe", LAST)
def a_weight_that_is_normalised_when_called() -> nn.Module:
    """Cosine layer: rows of the weight and frames have length one."""

    def forward(n: Any, x: Tensor) -> Tensor:
        return F.linear(F.normalize(x, dim=-1), F.normalize(n.w, dim=1)) * n.s

    return frames(Part(forward, w=weight(6, 8), s=gain(1)), left=6)
