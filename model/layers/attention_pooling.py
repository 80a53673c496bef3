"""Attention pooling of event sequences with respect to the candidate item: DIN and DIEN.

The Base model of the paper (§4.1) pools sequences as in DIEN. The target of the attention is the candidate: the
embeddings of the row's single ids that are in the same embedding table as one of the event's sides.

Tensor names end in their shape:
    B: rows of the batch
    L: events of a sequence, most recent last, followed by padding
    E: width of an event (the concatenated embeddings of its sides)
    T: width of the target (the concatenated embeddings of the candidate)
    P: width of an event and target pair (E + 3 T)

References:
    DIN: Zhou et al., KDD 2018 (doi 10.1145/3219819.3219823), section 4.3.
    DIEN: Zhou et al., AAAI 2019 (doi 10.1609/aaai.v33i01.33015941), sections "Interest Extractor Layer" and
    "Interest Evolving Layer".
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from star_ctr.conf.settings.model import ModelSettings
from star_ctr.model.layers.stack import activate


def mask_events(length_B: Tensor, max_length: int) -> Tensor:
    """Return which of the `max_length` positions of each row hold an event, as a boolean tensor B x L."""
    return torch.arange(max_length, device=length_B.device) < length_B[:, None]


class DinPooling(nn.Module):
    """DIN pooling: the sum of the events, weighted by their relevance to the candidate.

    The weight of an event e for the target t is the output of a two-layer network over [e, t, e_t - t, e_t * t]. Here,
    e_t are the columns of e whose embedding tables the target also uses. As in the DIN paper, the weights are not
    normalized to sum to one, so that the length of the result vector shows how strong an interest is.

    Args:
        settings: Provides the hidden width (`attention_width`) and the activation of the two-layer network.
        event_width: E.
        matched: The slices of an event's columns that form e_t, in the order of the target's columns.
        target_width: T.
    """

    def __init__(self, settings: ModelSettings, event_width: int, matched: list[slice], target_width: int) -> None:
        super().__init__()
        self.activation, self.matched = settings.activation, matched
        self.hidden = nn.Linear(event_width + 3 * target_width, settings.attention_width)
        self.out = nn.Linear(settings.attention_width, 1)

    def forward(self, events_BLE: Tensor, length_B: Tensor, target_BT: Tensor) -> Tensor:
        """Return the pooled events, B x E; 0 for a row without events."""
        matched_BLT = torch.cat([events_BLE[:, :, part] for part in self.matched], dim=2)
        target_BLT = target_BT[:, None].expand_as(matched_BLT)
        pair_BLP = torch.cat([events_BLE, target_BLT, matched_BLT - target_BLT, matched_BLT * target_BLT], dim=2)
        weight_BL: Tensor = self.out(activate(self.hidden(pair_BLP), self.activation)).squeeze(2)
        weight_BL = weight_BL * mask_events(length_B, events_BLE.shape[1])
        return torch.einsum("bl,ble->be", weight_BL, events_BLE)


class DienPooling(nn.Module):
    """DIEN pooling: a GRU extracts interests from the events, and an AUGRU evolves them toward the candidate.

    1. The extractor (a GRU) computes a state h_l per event. The auxiliary loss trains h_l to predict event l + 1.
    2. The attention weight a_l is the softmax of h_l W t over the events of the row. It measures how relevant the state
       is to the candidate.
    3. The AUGRU runs over the states. It is a GRU whose update gate is multiplied by a_l. The result is its last state.

    Args:
        settings: Provides the weight of the auxiliary loss (`interest_loss`).
        event_width: E, also the width of the states.
        matched: Not used. `DinPooling` has the same parameters.
        target_width: T.
    """

    def __init__(self, settings: ModelSettings, event_width: int, matched: list[slice], target_width: int) -> None:
        super().__init__()
        self.interest_loss = settings.interest_loss
        self.extractor = nn.GRU(event_width, event_width, batch_first=True)
        self.attention = nn.Parameter(torch.empty(event_width, target_width))
        nn.init.xavier_uniform_(self.attention)
        self.gates = nn.Linear(event_width, 3 * event_width)
        self.state_gates = nn.Linear(event_width, 3 * event_width, bias=False)
        self._last_auxiliary_loss: Tensor | None = None

    def forward(self, events_BLE: Tensor, length_B: Tensor, target_BT: Tensor) -> Tensor:
        """Return the last state of the evolved interest, B x E; 0 for a row without events."""
        longest = max(int(length_B.max()), 1) if len(length_B) else 1
        events_BLE = events_BLE[:, :longest]
        mask_BL = mask_events(length_B, longest)
        h_BLE: Tensor = self.extractor(events_BLE)[0]
        self._last_auxiliary_loss = self._compute_auxiliary_loss(h_BLE, events_BLE, mask_BL) if self.training else None
        relevance_BL = torch.einsum("ble,et,bt->bl", h_BLE, self.attention, target_BT)
        weight_BL = torch.softmax(relevance_BL.masked_fill(~mask_BL, -1e9), dim=1) * mask_BL
        return self._run_augru(h_BLE, weight_BL)

    def _run_augru(self, h_BLE: Tensor, weight_BL: Tensor) -> Tensor:
        """Return the last state of the AUGRU, B x E.

        An event of weight 0, such as padding, does not change the state.
        """
        update_BLE, reset_BLE, new_BLE = self.gates(h_BLE).chunk(3, dim=2)
        state_BE = torch.zeros_like(h_BLE[:, 0])
        update_EE, reset_EE, new_EE = self.state_gates.weight.T.chunk(3, dim=1)
        for position in range(h_BLE.shape[1]):
            update_BE = torch.sigmoid(update_BLE[:, position] + state_BE @ update_EE)
            reset_BE = torch.sigmoid(reset_BLE[:, position] + state_BE @ reset_EE)
            new_BE = torch.tanh(new_BLE[:, position] + reset_BE * (state_BE @ new_EE))
            state_BE = torch.lerp(state_BE, new_BE, weight_BL[:, position, None] * update_BE)
        return state_BE

    def _compute_auxiliary_loss(self, h_BLE: Tensor, events_BLE: Tensor, mask_BL: Tensor) -> Tensor:
        """Return the unweighted auxiliary loss, summed over the rows.

        The loss of a row is the mean over l of -log s(h_l e_l+1) - log(1 - s(h_l e'_l+1)), where s is the sigmoid. The
        negative example e' is the event at the same position in the next row of the batch, whose rows are shuffled.
        Positions at which the next row has no event are left out.
        """
        is_pair_BL = mask_BL[:, 1:] & mask_BL.roll(-1, 0)[:, 1:]
        if len(h_BLE) < 2 or not is_pair_BL.any():
            return h_BLE.sum() * 0
        positive_BL = torch.einsum("ble,ble->bl", h_BLE[:, :-1], events_BLE[:, 1:])
        negative_BL = torch.einsum("ble,ble->bl", h_BLE[:, :-1], events_BLE.roll(-1, 0)[:, 1:])
        softplus = nn.functional.softplus
        loss_BL = (softplus(-positive_BL) + softplus(negative_BL)) * is_pair_BL
        return (loss_BL.sum(1) / is_pair_BL.sum(1).clamp(min=1)).sum()

    def auxiliary_loss(self) -> Tensor:
        """Return the auxiliary loss of the last forward pass in training, weighted and summed over its rows."""
        assert self._last_auxiliary_loss is not None, "call forward in training mode first"
        return self.interest_loss * self._last_auxiliary_loss
