"""The tensors that are measured: shapes of real models, and gradients of noise."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Shape = tuple[int, ...]


@dataclass(frozen=True)
class TensorSet:
    """The tensors of a model, or what of it is trained."""

    name: str
    what: str
    shapes: tuple[Shape, ...]
    dtype: torch.dtype = torch.float32
    on_cpu: bool = True

    @property
    def parameters(self) -> int:
        return sum(math.prod(shape) for shape in self.shapes)


def bert_shapes(layers: int, h: int, f: int, *, vocabulary: int = 30522) -> tuple[Shape, ...]:
    """Tensors of a BERT with `layers` layers of width `h` and feed-forward width `f`, pooler included."""
    attention = [(h, h), (h,)] * 4 + [(h,), (h,)]
    feed_forward = [(f, h), (f,), (h, f), (h,), (h,), (h,)]
    return ((vocabulary, h), (512, h), (2, h), (h,), (h,), *(attention + feed_forward) * layers, (h, h), (h,))


def lora_shapes(r: int = 16, *, layers: int = 32, h: int = 4096, kv: int = 1024, f: int = 14336) -> tuple[Shape, ...]:
    """A and B of rank `r` on the seven linear layers of each block of a 7B model (Mistral's widths)."""
    linear = [(h, h), (h, kv), (h, kv), (h, h), (h, f), (h, f), (f, h)]  # q k v o gate up down, as (in, out)
    return tuple(shape for a, b in linear for shape in ((r, a), (b, r))) * layers


def decoder_shapes(
    layers: int = 16, *, h: int = 2048, kv: int = 512, f: int = 8192, v: int = 128256
) -> tuple[Shape, ...]:
    """Tensors of a decoder of 1.2 B parameters (the widths of Llama 3.2 1B, tied embeddings)."""
    block = [(h, h), (kv, h), (kv, h), (h, h), (f, h), (f, h), (h, f), (h,), (h,)]
    return ((v, h), *block * layers, (h,))


SETS = {
    s.name: s
    for s in (
        TensorSet("minilm", "all-MiniLM-L6-v2", bert_shapes(6, 384, 1536)),
        TensorSet("bert", "BERT-base", bert_shapes(12, 768, 3072)),
        TensorSet("lora", "LoRA r=16 on a 7B", lora_shapes()),
        TensorSet("1b", "1B decoder", decoder_shapes(), on_cpu=False),
        TensorSet("1b-bf16", "1B decoder, bf16", decoder_shapes(), torch.bfloat16, on_cpu=False),
    )
}


class Noise:
    """Gradients of independent noise (standard deviation 1e-3), another one each time, at no cost.

    They are views into one long buffer, and `move` shifts all of them by the same random distance. So the cosine with
    the momentum is about 0, as with small batches; gradients that never change would soon be parallel to it. As in
    training, the addresses change from step to step.
    """

    ALIGN = 128  # elements: as torch's allocator on a GPU places tensors, and more than a CPU's vectors need
    SLACK = 2**20

    def __init__(self, params: Sequence[Tensor], generator: torch.Generator) -> None:
        self.params, self.generator = params, generator
        self.starts, end = [], 0
        for p in params:
            self.starts.append(end)
            end += -(-p.numel() // self.ALIGN) * self.ALIGN
        p = params[0]
        self.buffer = torch.randn(end + self.SLACK, generator=generator, device=p.device, dtype=p.dtype) * 1e-3
        self.move()

    def move(self) -> None:
        """Give every parameter its next gradient."""
        places = self.SLACK // self.ALIGN
        shift = self.ALIGN * int(torch.randint(places, (), generator=self.generator, device=self.generator.device))
        for p, start in zip(self.params, self.starts, strict=True):
            p.grad = self.buffer[start + shift : start + shift + p.numel()].view(p.shape)
