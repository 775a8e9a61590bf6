"""Key lines of the graph and the gates, each with a wrong version that some test has to notice."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["WRONG", "Wrong"]

GRAPH = (
    "test_labels.py",
    "test_assembly.py",
    "test_graph.py",
    "test_graph_conv_tasnet.py",
    "test_graph_cutting.py",
    "test_graph_calls.py",
)
NETWORKS = (
    "test_other_networks.py",
    "test_wrapped_models.py",
    "test_example_length.py",
    "test_prove.py",
    "test_people_networks.py",
    "test_asteroid.py",
)
GATES = (
    "test_gates.py",
    "test_search.py",
    "test_search_budgets.py",
    "test_published_rule.py",
    "test_lookahead.py",
    "test_invariants.py",
    "test_invariants_search.py",
)


@dataclass(frozen=True)
class Wrong:
    """A wrong version of a line.

    Attributes:
        file: In the package.
        right: What stands there, once.
        wrong: What is put in its place.
        tests: Files that are tried, in this order, until one fails.
    """

    file: str
    right: str
    wrong: str
    tests: tuple[str, ...] = GRAPH

    def __str__(self) -> str:
        return f"{self.file}: {self.right.strip().splitlines()[0][:60]}"


def _graph(file: str, right: str, wrong: str) -> Wrong:
    return Wrong(f"graph/{file}.py", right, wrong, GRAPH + NETWORKS)


def _gates(file: str, right: str, wrong: str) -> Wrong:
    return Wrong(f"gates/{file}.py", right, wrong, (*GATES, *NETWORKS[:1], "test_budgets.py"))


def _gated(right: str, wrong: str) -> Wrong:
    return Wrong("graph/gating.py", right, wrong, (*GATES, *NETWORKS[:1], "test_budgets.py"))


WRONG = [
    # -- labels: what goes together ----------------------------------------------------------------
    _graph("labels", "self._parent[high] = low", "self._parent[max(one, other)] = min(one, other)"),
    _graph("labels", "for reasons in (self._reason, self._ungated):", "for reasons in ():"),
    _graph("labels", "for member in members[1:]:", "for member in members[2:]:"),
    _graph(
        "labels",
        "mixed = ((rows != highest[:, None]) & (rows != 0)).any(1)",
        "mixed = ((rows != highest[:, None]) & (rows != 0)).all(1)",
    ),
    _graph(
        "labels",
        "if bool((one == first_one).all()) and bool((other == first_other).all()):",
        "if bool((one == first_one).all()) or bool((other == first_other).all()):",
    ),
    _graph(
        "labels",
        "return bool(((labels == highest) | (labels == 0)).all())",
        "return bool(((labels == highest) | (labels == 0)).any())",
    ),
    # -- assembly: groups --------------------------------------------------------------------------
    _graph("assembly", "if len(group.components) < len(ordered):", "if False:"),
    _graph(
        "assembly", "if group.ungated is None and not read and not any(", "if False and not any("
    ),
    _graph("assembly", "if len(used) < 2 and used.keys() <= members:", "if False:"),
    _graph(
        "assembly",
        "if reason is not None:\n            return reason",
        "if False:\n            return reason",
    ),
    _graph(
        "assembly", "return len(members - done), len(members)", "return len(members), len(members)"
    ),
    _graph("assembly", "found.pop(0, None)", "pass"),
    # -- tracer: what layers and operations do to labels -------------------------------------------
    _graph("tracer", "self._tie_parts(merged, rule.ties(module)[0])", "pass"),
    _graph("tracer", "self._tie_parts(inputs, tie_in)", "pass"),
    _graph("tracer", "if old is not None and new is not None:", "if False:"),
    _graph("tracer", 'self.protect(labels, f"operation', 'str(f"operation'),
    _graph(
        "tracer",
        'self.channels.protect(torch.unique(labels).tolist(), "it is an output of the model")',
        "pass",
    ),
    _graph("tracer", "if dim != axis and labels.size(axis) == 1:", "if False:"),
    _graph("tracer", "_each_tensor(example_inputs, lambda t: self.store.set(t, label))", "pass"),
    _graph("tracer", "_along(made[index], rule.axis", "_along(made, rule.axis"),
    _graph(
        "tracer",
        ".fresh(count // parts).repeat(parts)",
        ".fresh(count // parts).repeat_interleave(parts)",
    ),
    _graph("tracer", "outputs = merged.repeat_interleave(made)", "outputs = merged.repeat(made)"),
    _graph(
        "tracer",
        "if one is not None and other is not None:\n            self._unite(one[",
        "if False:\n            self._unite(one[",
    ),
    _graph("tracer", "couple(self.shared, self.sites", "couple({}, self.sites"),
    _graph("tracer", "self._direct.protect(self.sites,", "self._direct.protect({},"),
    _graph(
        "tracer", "self._unite(merge_along(labels, axes[0], self.channels), known.outputs)", "pass"
    ),
    # -- groups and cutting ------------------------------------------------------------------------
    _graph(
        "group",
        "parts[turn].append((index, order[component]))",
        "parts[0].append((index, order[component]))",
    ),
    _graph("group", "keep[list(removed)] = False", "keep[list(removed)[:1]] = False"),
    _graph(
        "cutting", "if present is not None and present != site.components.numel():", "if False:"
    ),
    _graph("cutting", "tie_again(graph.shared)", "pass"),
    _graph("cutting", "sync_attributes(graph.model)", "pass"),
    _graph(
        "cutting",
        "parameter.requires_grad_(flags.get(name, True))",
        "parameter.requires_grad_(True)",
    ),
    _graph("channel_graph", "self.sets[number].reason = reason", "pass"),
    _graph(
        "channel_graph",
        "settle(tracer.rectangles, channels, tracer.made(), tracer.bundles, self.axes)",
        "pass",
    ),
    _graph("calls", "leaves[number] = leaves[number] * mask", "pass"),
    _graph("rectangles", "if members and (together or find(entry) in whole):", "if False:"),
    _graph("choosing", "if why is not None:", "if False:"),
    _graph(
        "choosing",
        "missing = (missing if parts else wanted) - set(members)",
        "missing = set[int]()",
    ),
    # -- gates: what consumers read ----------------------------------------------------------------
    _gated("if through and not rule.pools_channels(owner):", "if through:"),
    _gated("and not rule.remembers(owner):", "and not through:"),
    _gated("bool((mask == 1).all())", "bool((mask == 1).any())"),
    _gated(
        "gate_of.get(c, always) for c in site.components.tolist()",
        "gate_of.get(c, 0) for c in site.components.tolist()",
    ),
    _gated('layer.module.__dict__.pop("forward", None)', "pass"),
    _gated("if index is not None and index.numel() != count(layer.module):", "if False:"),
    _gates("gate_set", "if self.model.training:", "if not self.model.training:"),
    _gates("gate_set", "if c.ungated is None]", "if c]"),
    _gates("gate_set", 'torch.tensor([float("inf")])', 'torch.tensor([float("-inf")])'),
    _gates("masks", "if not bool(values.any()):", "if False:"),
    _gates(
        "cost", "row[gate_of.get(component, count)] += 1", "row[gate_of.get(component, count)] = 1"
    ),
    _gates("cost", "into = out\n", "into = into\n"),
    _gates("cost", "bare = (open_ - 1) @", "bare = open_ @"),
    _gates("cost", "seen.update(module.parameters())", "pass"),
    _gates("cost", "return counts + self._always.to(gates.device)", "return counts"),
    _gates("cost", "positions = entry.macs // unit if unit else 0", "positions = 1"),
    _gates("parametrisation", "return gradient.clamp(-1, 1), None", "return gradient, None"),
    _gates(
        "parametrisation",
        "scores - self.temperature * math.log",
        "scores + self.temperature * math.log",
    ),
    _gates("parametrisation", "self.low).clamp(0, 1)", "self.low)"),
    _gates("parametrisation", "(1 - self.threshold)) - scores", "(1 - self.threshold)) + scores"),
    _gates(
        "parametrisation",
        "return torch.rand(count, generator=generator)",
        "return torch.zeros(count)",
    ),
    _gates("lookahead", "gates * (1 - gates) * energy + floor", "gates * 0 * energy + floor"),
    _gates("lookahead", "(guessed + kept) * gates", "guessed + kept"),
    _gates("lookahead", "if values is not self._values:", "if self._values is None:"),
]
