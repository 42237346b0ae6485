"""Prints an analysis as lines of text."""

from .analysis import ScalingAnalysis


def screen_lines(analysis: ScalingAnalysis) -> list[str]:
    """Lines with slopes, correlations and predictions."""
    first = 2 + max(20, *map(len, analysis.slopes))
    second = 2 + max(16, *map(len, analysis.tasks))
    lines = [f"x: {analysis.axis_label}", "", f"{'family':<{first}}{'task':<{second}}{'slope a':>9}   95 % interval"]
    for series, slopes in analysis.slopes.items():
        for task, a in slopes.items():
            fit = analysis.fits.get(series, {}).get(task)
            interval = _interval(fit.law.a_low, fit.law.a_high) if fit else ""
            lines.append(f"{series:<{first}}{task:<{second}}{a:>9.4f}   {interval}")
        if series in analysis.means:
            law = analysis.means[series].law
            lines.append(
                f"{series:<{first}}{'mean curve':<{second}}{law.a:>9.4f}   {_interval(law.a_low, law.a_high)}"
            )
    for series, coefficients in analysis.correlations.items():
        lines += ["", f"{series}: Pearson correlation of slope with"]
        lines += [
            f"  {n:<14}{c.pearson:>6.2f}  {_interval(c.low, c.high, 2)}  p {c.p:.3f}" for n, c in coefficients.items()
        ]
    lines += [f"{series}: {prediction.statement}" for series, prediction in analysis.predictions.items()]
    return lines


def _interval(low: float, high: float, digits: int = 4) -> str:
    return f"{low:.{digits}f} to {high:.{digits}f}" if low == low else "unknown"
