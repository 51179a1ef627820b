"""DomainSpec: the schema of a domain.yaml, and its manual."""

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from alter_core.spec.fit import problems_of_homes, problems_of_stage
from alter_core.spec.licences import LicencesSpec
from alter_core.spec.mta import MTAConfig
from alter_core.spec.schedule import ScheduleSpec
from alter_core.spec.section import Name, Section, Share, spec_error
from alter_core.spec.span import Span
from alter_core.spec.stage import StageSpec, StageTwoSpec
from alter_core.spec.task import TaskSpec
from alter_core.spec.trigger import TriggerSpec
from alter_core.whole import digest_of


class BackboneSpec(Section):
    """The pretrained model that is extended."""

    model: str
    """A hub id (org/name), a local folder, or package:NAME/FILE.gguf for a file inside an installed package."""
    revision: str | None = None
    """Commit or tag of a hub model; unset takes the newest, and the digest records which it was."""
    licence: str = ""
    """Licence of the weights, shown in the model card."""

    @field_validator("model")
    @classmethod
    def _named(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("is empty; give a hub id (org/name), a local folder, or package:NAME/FILE.gguf")
        return value


class SplitSpec(Section):
    """How rows without a split of their own are divided: by hash of a key, so that a row never moves."""

    test: Share = 0.1
    """Share of rows for the test split."""
    validation: Share = 0.1
    """Share of the rows for the validation split, also where `test` rows come apart."""
    by: Literal["row", "group"] = "row"
    """Hash the row's input, or its `group` column, so that a group never straddles splits; groups of a task's own
    `test` rows are not looked at."""

    @model_validator(mode="after")
    def _something_left(self) -> "SplitSpec":
        if self.test + self.validation >= 1:
            raise ValueError(f"test + validation must leave rows to train on, got {self.test + self.validation}")
        return self


class EvaluationSpec(Section):
    """How the held-out rows are scored."""

    max_rows: int | None = Field(default=None, ge=1)
    """At most so many test rows a task, chosen by hash; unset: all."""
    max_validation_rows: int | None = Field(default=None, ge=1)
    """At most so many validation rows a task while training; unset: all."""
    baselines: tuple[Literal["zero_shot", "majority", "bag_of_words"], ...] = ("zero_shot", "majority", "bag_of_words")
    """Scored beside the model in every run: the backbone as it came, the commonest label, and what a user could have in
    seconds: for label tasks logistic regression over a bag of words (TF-IDF), for the others a copy of the input's
    first sentence or of all of it."""


class PromotionSpec(Section):
    """When a candidate becomes champion."""

    max_task_drop: Share = 0.02
    """No task's score may fall by more than this against the champion's, on the candidate's test rows. The fewer these
    are, the more often an equally good model falls so far by chance: of 50 rows, one is 0.02."""
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    """Of the paired bootstrap on the macro score."""
    by: Literal["model", "task"] = "model"
    """task: in a refresh, tasks that score less than the champion's keep the champion's adapters before the rule is
    asked."""
    mode: Literal["rule", "review"] = "rule"
    """review: a candidate that the rule would promote waits until a person promotes or rejects it."""
    reviewers: tuple[str, ...] = ()
    """Who may, by the name of their account on the MLflow server or, where the store has no accounts, of their user;
    empty: whoever may move the alias."""
    wait: Span = "14d"
    """So long a candidate waits; then it is put aside, and that is told."""

    @model_validator(mode="after")
    def _somebody_to_review(self) -> "PromotionSpec":
        if self.reviewers and self.mode != "review":
            raise ValueError("reviewers decide nothing without `mode: review`: add it, or drop them")
        if wrong := [name for name in self.reviewers if not name.strip() or "," in name]:
            raise ValueError(f"reviewers are names of accounts, which are not empty and hold no comma: {wrong}")
        return self


class DomainSpec(Section):
    """One domain: a backbone, its tasks, and how they are trained, scored and promoted."""

    name: Name
    """Also the name of the registered model."""
    description: str = ""
    """What the model is for; opens the model card."""
    backbone: BackboneSpec
    """The pretrained model that is extended."""
    tasks: tuple[TaskSpec, ...]
    """One or more."""
    licences: LicencesSpec | None = None
    """Which licences the backbone and the data may have; unset: any, and none stated."""
    split: SplitSpec = SplitSpec()
    """How rows are divided into train, validation and test."""
    mta: MTAConfig = MTAConfig()
    """Where MTA layers go, and what they hold."""
    stage_one: StageSpec = Field(default=StageSpec(), validate_default=True)
    """Intra-task knowledge."""
    stage_two: StageTwoSpec | None = Field(default=StageTwoSpec(), validate_default=True)
    """Inter-task collaboration; null: the bundle is what stage one left."""
    evaluation: EvaluationSpec = EvaluationSpec()
    """How the held-out rows are scored."""
    promotion: PromotionSpec = PromotionSpec()
    """When a candidate becomes champion."""
    warm_start: Literal["backbone", "champion", "refresh"] = "backbone"
    """What stage one starts from when something has changed: the pretrained backbone, or the champion of the day, where
    its backbone, tasks, split and `mta` are the same. refresh: there, and where its gates keep tasks apart (strength or
    hard), the tasks whose rows have changed train their own adapters alone; all others stay as they are."""
    schedule: ScheduleSpec | None = None
    """When the domain is produced unattended; unset: only by hand."""
    trigger: TriggerSpec | None = Field(default=None, json_schema_extra={"examples": ["data"]})
    """What else starts a run: `data`, or a section, for rows that changed; unset: nothing."""
    freshness: Span | None = None
    """An older champion, or one whose rows changed, is told as stale; unset: none is."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """auto takes bf16 where a short measurement at start shows that the processor gains from it."""
    trunk_cache: bool = True
    """Run the frozen blocks below the first MTA layer once per row, and keep their output on disk."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Of everything random."""

    @field_validator("tasks")
    @classmethod
    def _one_or_more(cls, value: tuple[TaskSpec, ...]) -> tuple[TaskSpec, ...]:
        if not value:
            raise ValueError("give at least one")
        names = [task.name for task in value]
        repeated = [number for number, name in enumerate(names) if name in names[:number]]
        if wrong := [((n, "name"), f"{names[n]!r} is used more than once; rename all but one") for n in repeated]:
            raise spec_error(wrong)
        return value

    @field_validator("licences")
    @classmethod
    def _allow_what_is_used(cls, value: LicencesSpec | None, info: ValidationInfo) -> LicencesSpec | None:
        used = {f"task {task.name}": task.licence for task in info.data.get("tasks", ())}
        if "backbone" in info.data:
            used = {"the backbone": info.data["backbone"].licence, **used}
        if value and (wrong := [(("allow",), problem) for problem in value.problems(used)]):
            raise spec_error(wrong)
        return value

    # Sections are looked at in the order of the fields above. One that is wrong for itself is not in `info.data`: what
    # would have to fit it is looked at once it is right.
    @field_validator("mta")
    @classmethod
    def _homes_are_tasks(cls, value: MTAConfig, info: ValidationInfo) -> MTAConfig:
        if "tasks" in info.data and (
            wrong := list(problems_of_homes(value.homes, [task.name for task in info.data["tasks"]]))
        ):
            raise spec_error(wrong)
        return value

    @field_validator("stage_one", "stage_two")
    @classmethod
    def _fits_the_adapters(cls, value: StageSpec | None, info: ValidationInfo) -> StageSpec | None:
        tasks = [task.name for task in info.data["tasks"]] if "tasks" in info.data else None
        mta = info.data.get("mta")
        if value and mta and (wrong := list(problems_of_stage(value, mta, tasks))):
            raise spec_error(wrong)
        if info.field_name == "stage_two":
            one = info.data.get("stage_one")
            if one and one.leaves and value is None:
                raise ValueError("there is none, and stage_one > leaves keeps rows for it: drop one of the two")
            if value and value.leaves:
                raise spec_error([(("leaves",), "no stage comes after this one: drop it, or say it in stage_one")])
        return value

    @field_validator("trigger", mode="before")
    @classmethod
    def _data_for_short(cls, value: object) -> object:
        return {} if value == "data" else value

    @field_validator("warm_start")
    @classmethod
    def _keeps_what_it_starts_from(cls, value: str, info: ValidationInfo) -> str:
        one = info.data.get("stage_one")
        if value == "champion" and one and one.start is not None:
            raise ValueError("champion brings trained adapters, and stage_one > start would undo them: drop one")
        return value

    @property
    def task_names(self) -> tuple[str, ...]:
        return tuple(task.name for task in self.tasks)

    @property
    def stages(self) -> dict[Literal["stage_one", "stage_two"], StageSpec]:
        """Name -> stage, in the order that they train."""
        first: dict[Literal["stage_one", "stage_two"], StageSpec] = {"stage_one": self.stage_one}
        return first | ({"stage_two": self.stage_two} if self.stage_two else {})

    def count_steps(self, rows: int) -> int:
        """Optimizer steps of all stages over `rows` training rows."""
        return sum(stage.count_steps(rows) for stage in self.stages.values())

    def stages_end_with(self, stage: str) -> bool:
        """Whether the bundle of `stage` is what is registered; add_task is a last stage too."""
        return stage != "stage_one" or self.stage_two is None

    def task(self, name: str) -> TaskSpec:
        """The task called `name`. Raises KeyError when there is none."""
        return {task.name: task for task in self.tasks}[name]

    def with_labels(self, labels: Mapping[str, Sequence[str]]) -> "DomainSpec":
        """The same spec with the label lists that ingestion found; what training, bundles and serving read."""
        tasks = tuple(
            task.model_copy(update={"labels": tuple(labels[task.name])}) if task.name in labels else task
            for task in self.tasks
        )
        return self.model_copy(update={"tasks": tasks})

    def with_limit(self, rows: int) -> "DomainSpec":
        """The same spec with at most `rows` rows of each training source; test rows that come apart stay all."""
        tasks = []
        for task in self.tasks:
            limit = min(rows, task.source.limit or rows)
            tasks.append(task.model_copy(update={"source": task.source.model_copy(update={"limit": limit})}))
        return self.model_copy(update={"tasks": tuple(tasks)})

    @property
    def digest(self) -> str:
        """Of everything that can change a version: not when it is made, who approves it, what is allowed, and what the
        domain is for."""
        content = self.model_dump(mode="json", exclude={"schedule", "trigger", "freshness", "description", "licences"})
        content["promotion"] = self.promotion.model_dump(mode="json", include={"max_task_drop", "confidence"})
        return digest_of(content)
