"""Which look at an image is kept: the one of most successes, then of the largest score."""

import torch

from advlens.attacks.gradient import _Worst


def test_success_counts_before_the_score() -> None:
    """12 images, 9 looks, some of them at a part of the images; against a sort of each one's."""
    random = torch.Generator().manual_seed(0)
    worst, looks = _Worst(), list[list[tuple[float, float, int]]]([[] for _ in range(12)])
    for number in range(9):
        left = torch.arange(12) if number < 3 else torch.arange(number, 12, 2)
        kept = torch.full((len(left), 2), float(number))
        reached = torch.randint(3, (len(left),), generator=random) / 2  # shares of two draws
        score = torch.randint(-3, 4, (len(left),), generator=random).float()
        worst.see(kept, reached, score, left)
        for image, *look in zip(left.tolist(), reached.tolist(), score.tolist(), strict=True):
            looks[image].append((*look, -number))  # of equal looks the first stays
    for image, seen in enumerate(looks):
        reached_most, highest, first = max(seen)
        assert worst.kept is not None
        assert worst.kept[image].tolist() == [-first, -first]
        assert (worst.reached[image].item(), worst.score[image].item()) == (reached_most, highest)
    assert any(max(seen)[1] < max(score for _, score, _ in seen) for seen in looks)
