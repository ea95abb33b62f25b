"""What a student of npt costs in use beside its teacher, of which it computes all but the addition
of attention: tokens a second, weights and peak memory, with 1, 2 and all layers converted.

The Llama has 31 M random weights (8 layers, width 512, MLP 2048, 8 heads, 4 of keys, bytes), the
converters rank 64 and one pair. Eight texts of 32 tokens are gone on with by 16 each, the
likeliest, with the cache of keys and values.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from benchmarks.measuring.peaks import peak_mib, peak_of
from benchmarks.measuring.rows import Row, main, row

if TYPE_CHECKING:
    from torch import nn

    from models.npt.settings import LlamaSettings

LAYERS, RANK = 8, 64
CONVERTED = (1, 2, LAYERS)
TEXTS, PROMPT, LENGTH = 8, 32, 16
SEPARATOR, VOCABULARY = 256, 257
BLOCKS = 8
TEACHER = "the teacher"


def measure() -> Iterator[Row]:
    """Rates: medians over blocks in turn, CPU seconds on one thread; the ratio is the median over
    pairs of blocks. Memory: the median over three processes, all that each needs.
    """
    import torch

    from benchmarks.measuring.steps import in_turn

    torch.set_num_threads(1)
    teacher = llama_of(sizes())
    sides = {count: blocks_of(student_of(teacher, count)) for count in (0, *CONVERTED)}
    times = in_turn({str(count): block for count, block in sides.items()}, BLOCKS)
    tokens = TEXTS * LENGTH
    for count in CONVERTED:
        ours, base = times[str(count)], times["0"]
        ratio = statistics.median(b / a for a, b in zip(ours, base, strict=True))
        values = (tokens / statistics.median(side) for side in (ours, base))
        name = f"npt_generation/tokens_per_second/{count}_of_{LAYERS}_layers"
        yield Row(name, next(values), "tokens/s", TEACHER, next(values), ratio)
    whole = weights_mib(teacher)
    for count in CONVERTED:
        name = f"npt_generation/weights/{count}_of_{LAYERS}_layers"
        yield row(name, whole + converter_mib(count), "MiB", TEACHER, whole)
    peaks = {count: peak_of("benchmarks.rivals.npt_generation", str(count)) for count in sides}
    for count in CONVERTED:
        name = f"npt_generation/peak_memory/{count}_of_{LAYERS}_layers"
        yield row(name, peaks[count], "MiB", TEACHER, peaks[0])


def sizes() -> LlamaSettings:
    from models.npt.settings import LlamaSettings

    return LlamaSettings(layers=LAYERS, width=512, hidden=2048, heads=8, key_heads=4)


def llama_of(settings: LlamaSettings) -> nn.Module:
    """With random weights; it never ends a document, whose logit is always 0."""
    import torch

    from models.npt.llama import config_of, freeze, make_llama

    torch.manual_seed(0)
    config = config_of(settings, VOCABULARY, SEPARATOR, PROMPT + LENGTH)
    llama: Any = make_llama({**config, "initializer_range": 0.1})
    freeze(llama)
    llama.get_input_embeddings().weight[SEPARATOR] = 0.0
    return llama.eval()


def converters_of(count: int, settings: LlamaSettings) -> Any:
    """Of the last layers."""
    from models.npt.settings import ConverterSettings
    from models.npt.student import Converters

    layers = tuple(range(settings.layers - count, settings.layers))
    converters = Converters(layers, settings.width, settings.hidden, ConverterSettings(rank=RANK))
    return converters.eval()


def student_of(teacher: nn.Module, count: int, settings: LlamaSettings | None = None) -> nn.Module:
    """With that many layers converted; the teacher itself with 0."""
    from models.npt.layers import with_rules

    if not count:
        return teacher
    return with_rules(teacher, dict(converters_of(count, settings or sizes()).rules()))


def blocks_of(network: nn.Module, texts: int = TEXTS) -> Callable[[], float]:
    """A function that goes on with all texts once and returns the seconds; warmed up."""
    import torch

    from benchmarks.measuring.steps import undisturbed_clock
    from models.npt.continuation import continued

    generator, clock = torch.Generator().manual_seed(1), undisturbed_clock()
    prompts = torch.randint(0, SEPARATOR, (texts, PROMPT), generator=generator).tolist()

    def run() -> float:
        began = clock()
        endings = continued(network, prompts, LENGTH, SEPARATOR)
        seconds = clock() - began
        if any(len(ending) != LENGTH for ending in endings):
            raise RuntimeError("a text has ended early: the rates would be of fewer tokens")
        return seconds

    run()
    return run


def weights_mib(module: nn.Module) -> float:
    return sum(p.numel() * p.element_size() for p in module.parameters()) / 2**20


def converter_mib(count: int) -> float:
    return weights_mib(converters_of(count, sizes()))


def _peak(count: str) -> None:
    import torch

    torch.set_num_threads(1)
    blocks_of(student_of(llama_of(sizes()), int(count)))
    print(json.dumps(peak_mib()))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peak"]:
        _peak(sys.argv[2])
    else:
        main(measure, __doc__)
