"""Values for the inputs of PyTorch models, by what an input means."""

from __future__ import annotations

from onnxopt.export.parts import Filling, Scene, Tensor

# Smaller ids are padding, start and end in most vocabularies: models treat some of them specially.
_FIRST_TOKEN = 5


def tokens(vocabulary: int) -> Filling:
    """Token ids below the size of the vocabulary."""

    def fill(shape: tuple[int, ...], scene: Scene) -> Tensor:
        import torch

        first = min(_FIRST_TOKEN, vocabulary - 1)
        return torch.randint(first, vocabulary, shape, generator=scene.generator)

    return fill


def eos_ended_tokens(vocabulary: int, eos: int) -> Filling:
    """Token ids that end with the end-of-text token, which CLIP's pooling looks for."""

    def fill(shape: tuple[int, ...], scene: Scene) -> Tensor:
        import torch

        top = min(vocabulary, eos) if eos > _FIRST_TOKEN else vocabulary
        ids = torch.randint(min(_FIRST_TOKEN, top - 1), top, shape, generator=scene.generator)
        ids[:, -1] = eos
        return ids

    return fill


def below(bound: int) -> Filling:
    """Integers from 0 to below the bound, as token types."""

    def fill(shape: tuple[int, ...], scene: Scene) -> Tensor:
        import torch

        return torch.randint(0, bound, shape, generator=scene.generator)

    return fill


def boxes(shape: tuple[int, ...], scene: Scene) -> Tensor:
    """Boxes of tokens on a page: left, top, right, bottom, from 0 to 1000."""
    import torch

    corners = torch.randint(0, 1001, (*shape[:-1], 2, 2), generator=scene.generator)
    return corners.sort(dim=-2).values.flatten(-2)


def padding_mask(*, left: bool) -> Filling:
    """A mask of ones; of a ragged case with padding in all rows but the first.

    Decoders are padded on the left, so that new tokens follow the text.
    """

    def fill(shape: tuple[int, ...], scene: Scene) -> Tensor:
        import torch

        mask = torch.ones(shape, dtype=torch.int64)
        if scene.case.ragged:
            for row in range(1, shape[0]):
                padding = min(row, max(shape[1] - 1, 0))
                mask[row, :padding] = 0 if left else 1
                if not left:
                    mask[row, shape[1] - padding :] = 0
        return mask

    return fill


def ones(shape: tuple[int, ...], scene: Scene) -> Tensor:
    """A mask without padding."""
    import torch

    return torch.ones(shape, dtype=torch.int64)


def positions_of(mask: str) -> Filling:
    """Positions that count the unmasked tokens, as generation computes them."""

    def fill(shape: tuple[int, ...], scene: Scene) -> Tensor:
        counted = (scene.made[mask].cumsum(-1) - 1).clamp(min=0)
        return counted[:, counted.shape[1] - shape[1] :].contiguous()

    return fill


def normal(shape: tuple[int, ...], scene: Scene) -> Tensor:
    """Numbers of a unit normal distribution."""
    import torch

    return torch.randn(shape, generator=scene.generator)


def like_example(example: Tensor) -> Filling:
    """The example's own values; repeated or cut along the axes whose size is another one."""

    def fill(shape: tuple[int, ...], scene: Scene) -> Tensor:
        import torch

        result = example
        for axis, size in enumerate(shape):
            if size != result.shape[axis]:
                index = torch.arange(size) % max(result.shape[axis], 1)
                result = result.index_select(axis, index)
        return result.contiguous()

    return fill
