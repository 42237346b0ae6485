"""The leakage guards in words, as cards and reports state them."""

MODES = {
    "strict": "sources whose records mention a benchmark were left out, in whole or part",
    "paper": "the paper's list of sources was kept as it is",
}


def guard_line(mode: str, benchmark_images: int) -> str:
    """A sentence on the guard `mode`, and on the comparison with `benchmark_images` images of benchmarks."""
    text = f"Guard {mode}: {MODES.get(mode, 'not known to this version')}"
    if benchmark_images:
        return f"{text}; in addition, every image was compared with {benchmark_images:,} images of benchmarks."
    return f"{text}. Images were not compared with benchmark images, because none were given."


def match_line(matched: str, count: int) -> str:
    """A sentence on images that also appear in a benchmark; `matched` is `SOURCE in BENCHMARK`."""
    return f"Found by their pixels and left out: {count:,} images of {matched}."


def relation_text(relation: str, note: str, verified: bool) -> str:
    """A source's relation to a benchmark in words, from its record."""
    text = relation.replace("_", " ") + (f"; {note}" if note else "")
    return text if verified else f"{text} (not verified)"
