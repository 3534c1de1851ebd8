"""Losses of predictions, all from log-probabilities."""
from torch import Tensor


def entropy(log_p: Tensor) -> Tensor:
    """-sum_k p_k log p_k: (B, K) -> (B,)."""
    return -(log_p.exp() * log_p).sum(1)


def consistency(log_p: Tensor) -> Tensor:
    """mean over views of ||p_v - p||_1, p not detached: (B, V, K) -> scalar (ViTTA, equation 9)."""
    p = log_p.exp()
    return (p - p.mean(1, keepdim=True)).abs().sum(2).mean()


def divergence(log_p: Tensor, t: Tensor) -> Tensor:
    """KL(t || p_v), mean over views: log p (B, V, K), t (B, K) summing to 1 -> (B,)."""
    return (t[:, None] * (t.clamp_min(1e-12).log()[:, None] - log_p)).sum(2).mean(1)
