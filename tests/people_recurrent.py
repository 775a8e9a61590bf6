"""Recurrent layers, cells and states as people write them."""

from __future__ import annotations

from typing import Any

import torch
from people_cases import Part, case, frames, gain, waves, weight
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pack_sequence, pad_packed_sequence

LAST = (2, 7, 4)


@case("recurrent", "cut", LAST)
def encoder_and_decoder() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        _, state = n.encoder(x)
        return n.decoder(x.flip(1), state)[0]

    held = {"encoder": nn.LSTM(8, 6, batch_first=True), "decoder": nn.LSTM(8, 6, batch_first=True)}
    return frames(Part(forward, **held), left=6)


@case("recurrent", "cut", LAST)
def state_of_a_gru_through_a_layer() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        _, h = n.encoder(x)
        return n.decoder(x, n.bridge(h).tanh())[0]

    held = {"encoder": nn.GRU(8, 6, batch_first=True), "decoder": nn.GRU(8, 5, batch_first=True)}
    return frames(Part(forward, bridge=nn.Linear(6, 5), **held), left=5)


@case("recurrent", "cut", LAST)
def last_state_as_a_summary() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        return n.rnn(x)[1][-1].unsqueeze(1)

    return frames(Part(forward, rnn=nn.GRU(8, 6, 2, batch_first=True)), left=6)


@case("recurrent", "cut", LAST)
def last_states_of_both_directions() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        _, (h, _) = n.rnn(x)
        return torch.cat([h[-2], h[-1]], dim=-1)[:, None]

    return frames(Part(forward, rnn=nn.LSTM(8, 6, batch_first=True, bidirectional=True)), left=12)


@case("recurrent", "cut", LAST)
def last_states_of_both_directions_by_a_view() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        h = n.rnn(x)[1]
        return h.transpose(0, 1).reshape(len(x), 1, -1)

    return frames(Part(forward, rnn=nn.GRU(8, 6, batch_first=True, bidirectional=True)), left=12)


@case("recurrent", "cut", LAST)
def directions_added() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        y = n.rnn(x)[0]
        return y.view(*y.shape[:2], 2, -1).sum(2)

    return frames(Part(forward, rnn=nn.LSTM(8, 6, batch_first=True, bidirectional=True)), left=6)


@case("recurrent", "cut", LAST)
def directions_by_slices() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        y, _ = n.rnn(x)
        return y[..., : n.hidden] * y[..., n.hidden :]

    rnn = nn.LSTM(8, 6, batch_first=True, bidirectional=True)
    return frames(Part(forward, rnn=rnn, hidden=6), left=6)


@case("recurrent", "cut", (7, 2, 4))
def time_first() -> nn.Module:
    return frames(Part(lambda n, x: n.rnn(x)[0], rnn=nn.LSTM(8, 6)), left=6)


@case("recurrent")
def between_convolutions() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        y, _ = n.rnn(x.permute(2, 0, 1))
        return x + n.out(y).permute(1, 2, 0)

    return waves(Part(forward, rnn=nn.LSTM(8, 5, 2), out=nn.Linear(5, 8)))


@case("recurrent", "cut", LAST)
def a_learned_first_state() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        return n.rnn(x, n.h0.expand(-1, x.size(0), -1).contiguous())[0]

    return frames(Part(forward, rnn=nn.GRU(8, 6, batch_first=True), h0=weight(1, 1, 6)), left=6)


@case("recurrent", "cut", LAST)
def a_first_state_from_the_input() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        h = n.start(x.mean(1)).tanh().unsqueeze(0)
        return n.rnn(x, (h, torch.zeros_like(h)))[0]

    held = {"rnn": nn.LSTM(8, 6, batch_first=True), "start": nn.Linear(8, 6)}
    return frames(Part(forward, **held), left=6)


@case("recurrent", "cut", LAST)
def cells_in_a_loop() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        h = c = x.new_zeros(len(x), n.cell.hidden_size)
        found = []
        for frame in x.unbind(1):
            h, c = n.cell(frame, (h, c))
            found.append(h)
        return torch.stack(found, 1)

    return frames(Part(forward, cell=nn.LSTMCell(8, 6)), left=6)


@case("recurrent", "cut", LAST)
def cells_of_a_gru_in_a_loop() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        h = torch.zeros(x.size(0), n.hidden, dtype=x.dtype)
        found = []
        for t in range(x.size(1)):
            h = n.cell(x[:, t], h)
            found.append(h)
        return torch.stack(found, dim=1)

    return frames(Part(forward, cell=nn.GRUCell(8, 6), hidden=6), left=6)


@case("recurrent", "cut", LAST)
def plain_cells_that_feed_themselves() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        h, found = None, []
        for t in range(x.size(1)):
            h = n.cell(x[:, t]) if h is None else n.cell(x[:, t], h)
            found.append(n.out(h))
        return torch.stack(found, 1)

    return frames(Part(forward, cell=nn.RNNCell(8, 6), out=nn.Linear(6, 8)))


@case("recurrent", "cut", LAST)
def cells_in_two_layers() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        states: list[Any] = [None] * 2
        found = []
        for frame in x.unbind(1):
            for i, cell in enumerate(n.cells):
                states[i] = cell(frame, states[i])
                frame = states[i][0]
            found.append(frame)
        return torch.stack(found, 1)

    cells = nn.ModuleList([nn.LSTMCell(8, 6), nn.LSTMCell(6, 5)])
    return frames(Part(forward, cells=cells), left=5)


@case("recurrent", "cut", LAST)
def decoder_that_attends() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        memory, h = n.encoder(x)
        h, found = h[0], []
        for t in range(3):
            score = (n.keys(memory) * n.query(h)[:, None]).sum(-1).softmax(-1)
            context = (score[..., None] * memory).sum(1)
            h = n.cell(torch.cat([context, x[:, t]], -1), h)
            found.append(h)
        return torch.stack(found, 1)

    held = {"encoder": nn.GRU(8, 6, batch_first=True), "cell": nn.GRUCell(14, 6)}
    return frames(Part(forward, keys=nn.Linear(6, 4), query=nn.Linear(6, 4), **held), left=6)


@case("recurrent", "cut", LAST)
def packed_frames() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        lengths = torch.arange(x.size(1), x.size(1) - len(x), -1)
        y, _ = n.rnn(pack_padded_sequence(x, lengths, batch_first=True))
        return pad_packed_sequence(y, batch_first=True)[0]

    return frames(Part(forward, rnn=nn.LSTM(8, 6, batch_first=True)), left=6)


@case("recurrent", "cut", LAST)
def packed_frames_in_any_order() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        lengths = torch.arange(x.size(1) - len(x) + 1, x.size(1) + 1)
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        y, h = n.rnn(packed)
        out, _ = pad_packed_sequence(y, batch_first=True, total_length=x.size(1))
        return out + h[-1].unsqueeze(1)

    return frames(Part(forward, rnn=nn.GRU(8, 6, batch_first=True)), left=6)


@case("recurrent", "cut", LAST)
def packed_list_of_frames() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        y, _ = n.rnn(pack_sequence(list(x)))
        return pad_packed_sequence(y, batch_first=True)[0]

    return frames(Part(forward, rnn=nn.LSTM(8, 6, batch_first=True, bidirectional=True)), left=12)


class Peephole(nn.Module):
    """An LSTM by hand: bare weights, four gates in a row."""

    def __init__(self, wide: int, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.w, self.u, self.b = (
            weight(4 * hidden, wide),
            weight(4 * hidden, hidden),
            gain(4 * hidden),
        )
        self.peep = gain(hidden)

    def forward(self, x: Tensor) -> Tensor:
        h = c = x.new_zeros(x.size(0), self.hidden)
        found = []
        for t in range(x.size(1)):
            i, f, g, o = (F.linear(x[:, t], self.w, self.b) + F.linear(h, self.u)).chunk(4, 1)
            c = torch.sigmoid(f + self.peep * c) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
            found.append(h)
        return torch.stack(found, 1)


@case("recurrent", "cut", LAST)
def cell_of_bare_weights() -> nn.Module:
    return frames(Peephole(8, 6), left=6)


class OwnGru(nn.Module):
    """A GRU of linear layers, three gates each."""

    def __init__(self, wide: int, hidden: int) -> None:
        super().__init__()
        self.x, self.h = nn.Linear(wide, 3 * hidden), nn.Linear(hidden, 3 * hidden, bias=False)
        self.hidden = hidden

    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros(len(x), self.hidden, dtype=x.dtype, device=x.device)
        gates, found = self.x(x), []
        for t in range(x.size(1)):
            xr, xz, xn = gates[:, t].chunk(3, -1)
            hr, hz, hn = self.h(h).chunk(3, -1)
            z = torch.sigmoid(xz + hz)
            h = (1 - z) * torch.tanh(xn + torch.sigmoid(xr + hr) * hn) + z * h
            found.append(h)
        return torch.stack(found, 1)


@case("recurrent", "cut", LAST)
def cell_of_linear_layers() -> nn.Module:
    return frames(OwnGru(8, 6), left=6)


@case("recurrent")
def light_recurrence() -> nn.Module:
    """Gates by a convolution, the rest element by element (QRNN)."""

    def forward(n: Any, x: Tensor) -> Tensor:
        z, f = n.gates(F.pad(x, (1, 0))).chunk(2, 1)
        z, f = z.tanh(), f.sigmoid()
        h, found = torch.zeros_like(z[..., 0]), []
        for t in range(z.size(-1)):
            h = f[..., t] * h + (1 - f[..., t]) * z[..., t]
            found.append(h)
        return torch.stack(found, -1)

    return waves(Part(forward, gates=nn.Conv1d(8, 12, 2)), left=6)


@case("recurrent")
def state_space_model() -> nn.Module:
    """A diagonal recurrence for each channel, with bare parameters (S4D, real)."""

    def forward(n: Any, x: Tensor) -> Tensor:
        time = torch.arange(x.size(-1), dtype=x.dtype)
        kernel = (n.c * n.b)[..., None] * torch.exp(-n.a.abs()[..., None] * time)
        k = kernel.sum(1)
        found = [(k[:, : t + 1].flip(-1) * x[..., : t + 1]).sum(-1) for t in range(x.size(-1))]
        return torch.stack(found, -1) + n.d[:, None] * x

    made = {name: gain(8, 3) for name in ("a", "b", "c")}
    return waves(Part(forward, d=gain(8), **made))


@case("recurrent", "cut", LAST, partly=True)
def selective_scan() -> nn.Module:
    """Steps and inputs of the recurrence come from the frames (Mamba)."""

    def forward(n: Any, x: Tensor) -> Tensor:
        u, z = n.into(x).chunk(2, -1)
        step = F.softplus(n.step(n.low(u)))
        b, c = n.bc(u).chunk(2, -1)
        decay = torch.exp(step[..., None] * -n.a.exp())
        drive = (step * u)[..., None] * b[:, :, None]
        h, found = torch.zeros_like(drive[:, 0]), []
        for t in range(x.size(1)):
            h = decay[:, t] * h + drive[:, t]
            found.append((h * c[:, t, None]).sum(-1))
        return n.out((torch.stack(found, 1) + n.d * u) * F.silu(z))

    held = {"into": nn.Linear(8, 12), "low": nn.Linear(6, 2), "step": nn.Linear(2, 6)}
    held |= {"bc": nn.Linear(6, 6), "out": nn.Linear(6, 8)}
    return frames(Part(forward, a=weight(6, 3), d=gain(6), **held))


@case("recurrent", "cut", LAST)
def minimal_gated_unit() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        h, found = x.new_zeros(len(x), n.wide), []
        for t in range(x.size(1)):
            f = n.f(torch.cat([x[:, t], h], -1)).sigmoid()
            h = (1 - f) * h + f * n.g(torch.cat([x[:, t], f * h], -1)).tanh()
            found.append(h)
        return torch.stack(found, 1)

    return frames(Part(forward, f=nn.Linear(14, 6), g=nn.Linear(14, 6), wide=6), left=6)


@case("recurrent", "safe", LAST)
def projected_lstm() -> nn.Module:
    rnn = nn.LSTM(8, 6, proj_size=3, batch_first=True)
    return frames(Part(lambda n, x: n.rnn(x)[0], rnn=rnn), left=3)


@case("recurrent", "cut", LAST)
def recurrent_layer_in_a_residual() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        return n.norm(x + n.rnn(x)[0][..., : x.size(-1)])

    return frames(Part(forward, rnn=nn.GRU(8, 8, batch_first=True), norm=nn.LayerNorm(8)))


@case("recurrent", "cut", LAST)
def states_kept_between_chunks() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        state, found = None, []
        for piece in x.split(3, 1):
            y, state = n.rnn(piece, state)
            found.append(y)
        return torch.cat(found, 1)

    return frames(Part(forward, rnn=nn.LSTM(8, 6, 2, batch_first=True)), left=6)


@case("recurrent", "cut", LAST)
def hidden_and_cell_together() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Tensor:
        y, (h, c) = n.rnn(x)
        return torch.cat([y, (h + c).transpose(0, 1).expand(-1, x.size(1), -1)], -1)

    return frames(Part(forward, rnn=nn.LSTM(8, 6, batch_first=True)), left=12)


@case("recurrent", "safe", LAST)
def states_that_are_returned() -> nn.Module:
    def forward(n: Any, x: Tensor) -> Any:
        y, state = n.rnn(n.a(x))
        return n.b(y), state

    return Part(forward, a=nn.Linear(4, 8), rnn=nn.GRU(8, 6, batch_first=True), b=nn.Linear(6, 3))
