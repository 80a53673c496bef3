"""Pooling of a behaviour sequence by attention to the candidate: DIN's, and DIEN's, on which §4.1's Base builds.

Tensor names end in their shape: B rows, L events (most recent last, padding after the true length), E the width of an
event (the embeddings of all its sides), T the width of the target: the candidate's embeddings of those sides that
have a single id of the row in the same table.

DIN: Zhou et al., KDD 2018 (doi 10.1145/3219819.3219823), section 4.3. DIEN: Zhou et al., AAAI 2019
(doi 10.1609/aaai.v33i01.33015941), sections "Interest Extractor Layer" and "Interest Evolving Layer".
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from star_ctr.conf.settings.model import ModelSettings
from star_ctr.model.layers.stack import activate


def mask_events(length_B: Tensor, places: int) -> Tensor:
    """Which of a row's places hold an event, B x L."""
    return torch.arange(places, device=length_B.device) < length_B[:, None]


class DinPooling(nn.Module):
    """DIN: the sum of the events, each weighted by how it fits the candidate.

    The weight of event e for target t is a two-layer network over [e, t, e_t - t, e_t * t], e_t being the
    sides that the target has. As in its paper the weights are not made to sum to one: how strong an interest
    is stays in the length of the result.
    """

    def __init__(self, settings: ModelSettings, event: int, matched: list[slice], target: int) -> None:
        super().__init__()
        self.activation, self.matched = settings.activation, matched
        self.hidden = nn.Linear(event + 3 * target, settings.attention_width)
        self.out = nn.Linear(settings.attention_width, 1)

    def forward(self, events_BLE: Tensor, length_B: Tensor, target_BT: Tensor) -> Tensor:
        """The pooled events, B x E; 0 for a row without any."""
        same_BLT = torch.cat([events_BLE[:, :, part] for part in self.matched], dim=2)
        target_BLT = target_BT[:, None].expand_as(same_BLT)
        pairs = torch.cat([events_BLE, target_BLT, same_BLT - target_BLT, same_BLT * target_BLT], dim=2)
        weight_BL: Tensor = self.out(activate(self.hidden(pairs), self.activation)).squeeze(2)
        weight_BL = weight_BL * mask_events(length_B, events_BLE.shape[1])
        return torch.einsum("bl,ble->be", weight_BL, events_BLE)


class DienPooling(nn.Module):
    """DIEN: interests extracted by a GRU, and their evolution towards the candidate by an AUGRU.

    State h_l of the extractor should tell the event that follows, by the auxiliary loss; a_l, the softmax over
    the true length of h_l W t, says how much of it concerns the candidate, and scales the update gate of the AUGRU.
    """

    def __init__(self, settings: ModelSettings, event: int, matched: list[slice], target: int) -> None:
        super().__init__()
        self.interest_loss = settings.interest_loss
        self.extractor = nn.GRU(event, event, batch_first=True)
        self.attention = nn.Parameter(torch.empty(event, target))
        nn.init.xavier_uniform_(self.attention)
        self.gates = nn.Linear(event, 3 * event)
        self.state_gates = nn.Linear(event, 3 * event, bias=False)
        self._told: Tensor | None = None

    def forward(self, events_BLE: Tensor, length_B: Tensor, target_BT: Tensor) -> Tensor:
        """The last state of the evolved interest, B x E; 0 for a row without events."""
        longest = max(int(length_B.max()), 1) if len(length_B) else 1
        events_BLE = events_BLE[:, :longest]
        there_BL = mask_events(length_B, longest)
        h_BLE: Tensor = self.extractor(events_BLE)[0]
        self._told = self._compute_auxiliary_loss(h_BLE, events_BLE, there_BL) if self.training else None
        fit_BL = torch.einsum("ble,et,bt->bl", h_BLE, self.attention, target_BT)
        weight_BL = torch.softmax(fit_BL.masked_fill(~there_BL, -1e9), dim=1) * there_BL
        return self._run_augru(h_BLE, weight_BL)

    def _run_augru(self, h_BLE: Tensor, weight_BL: Tensor) -> Tensor:
        """The AUGRU's last state; an event of weight 0, as padding is, leaves the state as it was."""
        update_BLE, reset_BLE, new_BLE = self.gates(h_BLE).chunk(3, dim=2)
        state_BE = torch.zeros_like(h_BLE[:, 0])
        of_u, of_r, of_n = self.state_gates.weight.T.chunk(3, dim=1)
        for place in range(h_BLE.shape[1]):
            u = torch.sigmoid(update_BLE[:, place] + state_BE @ of_u)
            r = torch.sigmoid(reset_BLE[:, place] + state_BE @ of_r)
            n = torch.tanh(new_BLE[:, place] + r * (state_BE @ of_n))
            state_BE = torch.lerp(state_BE, n, weight_BL[:, place, None] * u)
        return state_BE

    def _compute_auxiliary_loss(self, h_BLE: Tensor, events_BLE: Tensor, there_BL: Tensor) -> Tensor:
        """The auxiliary loss: each row's mean over its events of -log s(h_l e_l+1) - log(1 - s(h_l e'_l+1)), summed.

        e' is the event at the same place of the next row of the (shuffled) batch; where that has none, the pair
        is left out.
        """
        follows = there_BL[:, 1:] & there_BL.roll(-1, 0)[:, 1:]
        if len(h_BLE) < 2 or not follows.any():
            return h_BLE.sum() * 0
        right = torch.einsum("ble,ble->bl", h_BLE[:, :-1], events_BLE[:, 1:])
        wrong = torch.einsum("ble,ble->bl", h_BLE[:, :-1], events_BLE.roll(-1, 0)[:, 1:])
        softplus = nn.functional.softplus
        loss_BL = (softplus(-right) + softplus(wrong)) * follows
        return (loss_BL.sum(1) / follows.sum(1).clamp(min=1)).sum()

    def auxiliary_loss(self) -> Tensor:
        """The weighted auxiliary loss of the last forward in training, summed over its rows."""
        assert self._told is not None, "only after a forward in training"
        return self.interest_loss * self._told
