"""Few-shot probing: a linear probe on a few subjects per class, for many random draws."""

from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from biovfm_hf.options import option

from ..statistics.split import checked_split
from ..statistics.undefined import notes as split_notes
from .draws import NOTE, SubjectDraws
from .judging import absence_notes, feature_warnings, subject_numbers
from .probe import Answer, Probe, Trial, features_setting, register


def shots_setting() -> Any:
    """The field `shots` of a few-shot probe."""
    about = "few-shot: training subjects per class, for segmentation in total"
    return option(16, about, least=1, commas=True, metavar="N,...")


def draws_setting() -> Any:
    """The field `draws` of a few-shot probe."""
    return option(20, "few-shot: number of draws", least=1)


@register
@dataclass(frozen=True)
class FewShot(Probe):
    """Linear probes on a few subjects per class, for many random draws."""

    name = "fewshot"
    title = "probes on a few subjects (per class, if there are classes)"
    stratifies = False
    few_shot = True
    features: str = features_setting("both")
    shots: int = shots_setting()
    draws: int = draws_setting()

    @property
    def record_name(self) -> str:
        """The method's name with the number of shots, which is essential for reading its results."""
        return f"fewshot-{self.shots}"

    def run(self, trial: Trial) -> Answer:
        """Probe every draw and report their mean and spread."""
        from .heads.few_shot import probe_few_shot  # needs torch

        task, run = trial.task, trial.run
        plan = SubjectDraws(self.shots, self.draws, run.seed, run.resamples)
        problem = trial.problem(self.features)
        subjects = {name: split.subjects for name, split in task.splits.items()}
        with tqdm(total=self.draws, desc=trial.label(self.record_name), unit="draw", disable=None, leave=False) as bar:
            metrics, arrays, sizes = probe_few_shot(problem, subjects, plan, bar.update)
        test = checked_split(task.record.kind, trial.labels()["test"], arrays["test_scores"])
        notes = [*task.notes, *absence_notes(task), *split_notes(test), NOTE]
        chosen = {"train_cases": [min(sizes), max(sizes)]}
        arrays |= subject_numbers(task.splits["test"].subjects)
        warnings = feature_warnings(problem)
        return Answer(metrics, arrays, chosen, notes, trained=problem.linear_weights, warnings=warnings)
