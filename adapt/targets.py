"""What the audio term pulls a clip's prediction towards: t (B, K), sums to 1, no gradient (adapt/METHOD.md, section 4; all ours)."""
import math

import torch
from torch import Tensor
from torch.nn import functional as F

TARGETS = ("fused", "soft", "hard", "candidate")


def soft_target(log_p: Tensor, q: Tensor, share: float) -> Tensor:
    """t proportional to p^(1 - share) q^share: log p (B, K), q (B, K) -> (B, K) summing to 1."""
    return ((1 - share) * log_p + share * q.clamp_min(1e-6).log()).softmax(1)


def hard_target(q: Tensor) -> Tensor:
    """One-hot argmax q: (B, K)."""
    return F.one_hot(q.argmax(1), q.shape[1]).to(q)


def candidate_target(log_p: Tensor, s: Tensor, threshold: float) -> Tensor:
    """One-hot of the video's best class among those with evidence above `threshold`; the strongest evidence where none has."""
    allowed = (s >= torch.minimum(s.amax(1, keepdim=True), s.new_tensor(threshold))) & (s > 0)
    allowed |= ~allowed.any(1, keepdim=True)
    return F.one_hot(log_p.masked_fill(~allowed, -math.inf).argmax(1), s.shape[1]).to(s)
