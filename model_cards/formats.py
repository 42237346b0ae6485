"""Formats numbers and untrusted text for readers."""

import re

from markupsafe import Markup, escape

from biovfm_hf.results.significance import p_text


def count(value: float | None) -> str:
    """A whole number with thin thousands separators: 1234567 -> '1,234,567'; None -> 'not stated'."""
    return "not stated" if value is None else f"{value:,.0f}"


def short_count(value: float) -> str:
    """A number in three figures with k, M, G, T, P or E: 21_663_000 -> '21.7 M'."""
    for factor, letter in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:.3g} {letter}"
    return f"{value:.3g}"


def file_size(size: int) -> str:
    """Bytes as '14 kB' or '2.3 MB' (1 kB = 1000 bytes), at least 1 kB."""
    return f"{max(1, round(size / 1e3))} kB" if size < 999_500 else f"{size / 1e6:.1f} MB"


def number(value: float) -> str:
    """A measured number in four significant figures, without needless zeros or exponents."""
    if value == 0:
        return "0"
    if abs(value) >= 1e6 or abs(value) < 1e-4:
        return f"{value:.2e}"
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"


def duration(seconds: float | None) -> str:
    """Seconds as '42 s', '3 min 20 s' or '5 h 02 min'."""
    if seconds is None:
        return "not recorded"
    total = round(seconds)
    if total < 60:
        return f"{seconds:.1f} s"
    if total < 3600:
        return f"{total // 60} min {total % 60:02d} s"
    return f"{total // 3600:,} h {total % 3600 // 60:02d} min"


def p_value(p: float | None) -> str:
    """'<0.001', or three decimals; an en dash if there is none."""
    return p_text(p) or "–"


def breakable(name: object) -> Markup:
    """A name as HTML that may be broken after its punctuation, so that narrow tables do not cut words."""
    return Markup(re.sub(r"([_./-])(?=\w)", r"\1<wbr>", str(escape(name))))
