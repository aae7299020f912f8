"""A critic by rule: a step with "good" is right with 0.9, one with "bad" with 0.2, others with 0.6."""

from dataclasses import dataclass, field


@dataclass
class ScriptedCritic:
    """Notes what it is shown: (question, sizes of the images, candidates)."""

    shown: list = field(default_factory=list)
    weights: str = "as trained first"

    def score(self, question, images, candidates):
        self.shown.append((question, [image.size for image in images], [list(steps) for steps in candidates]))
        return [[self.judge(step) for step in steps] for steps in candidates]

    @staticmethod
    def judge(step):
        return 0.9 if "good" in step else 0.2 if "bad" in step else 0.6
