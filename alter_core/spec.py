"""DomainSpec: the schema of a domain.yaml, and its manual. `load_domain` reads one."""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, ValidationError, field_validator, model_validator

from alter_core.data.template import template_columns
from alter_core.data.text import clean
from alter_core.errors import SpecError
from alter_core.mta.config import MTAConfig
from alter_core.section import Misfit, Section, misfits
from alter_core.spec_problems import explained
from alter_core.task_types import TASK_TYPES, MetricName, TaskType, TaskTypeName
from alter_core.workspace import digest_of
from alter_core.yaml_text import read_mapping

SectionT = TypeVar("SectionT", bound=Section)
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
Share = Annotated[float, Field(ge=0, le=1)]
Part = Literal["backbone", "adapters", "shared_adapters", "task_adapters", "gates"]


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


SOURCE_KINDS: Mapping[str, tuple[str, ...]] = {
    "path": ("format",),
    "hub": ("config", "split", "revision"),
    "sql": ("query",),
    "callable": ("arguments",),
}
"""Kind of a source -> the keys that it alone has; the other keys go with every kind."""


_PASSWORD = re.compile(r"://[^/@:]*:(?!\$\{[^}]*\}@)[^@]*@|[?&](password|passwd|pwd)=(?!\$\{)", re.I)
"""A password in a database's URL that is written out."""


class SourceSpec(Section):
    """Where a task's rows come from. Exactly one of path, hub, sql, callable."""

    path: str | tuple[str, ...] | None = None
    """File, URL or glob (JSONL, CSV, TSV, Parquet; compressed or not), relative to the spec's folder or data root."""
    format: Literal["jsonl", "csv", "tsv", "parquet"] | None = None
    """Unset: told by the file's ending."""
    hub: str | None = None
    """Id of a `datasets` hub data set, or a local data set folder."""
    config: str | None = None
    """Configuration of the hub data set."""
    split: str | None = None
    """Split of the hub data set; unset means train."""
    revision: str | None = None
    """Commit or tag of the hub data set."""
    sql: str | None = None
    """A SQLAlchemy URL. ${VAR} is replaced from the environment: the only place where credentials may come from."""
    query: str | None = None
    """The SELECT to run, with `sql`."""
    callable: str | None = None
    """FILE.py:FUNCTION under the domain's folder, or the name of an entry point in the group alter.sources. It yields
    mappings."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of the callable."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Canonical column (input, target, id, group) -> column of the source."""
    template: str | None = None
    """Builds the input from several source columns, such as 'premise: {first} hypothesis: {second}'."""
    label_map: dict[str, str] = Field(default_factory=dict)
    """Source target -> label, applied before the label list is checked."""
    where: dict[str, str | int | float | bool | tuple[str | int | float | bool, ...]] = Field(default_factory=dict)
    """Keep only rows whose source column equals the value, or one of the values."""
    limit: int | None = Field(default=None, ge=1)
    """Keep at most so many rows, chosen by hash so that the choice is stable as data grows."""

    @model_validator(mode="after")
    def _one_kind(self) -> "SourceSpec":
        wrong: list[Misfit] = []
        given = [kind for kind in SOURCE_KINDS if getattr(self, kind)]
        if len(given) != 1:
            wrong.append(((), f"give exactly one of {', '.join(SOURCE_KINDS)}; got {', '.join(given) or 'none'}"))
        if bool(self.sql) != bool(self.query):
            wrong.append((("sql" if self.sql else "query",), "sql and query go together: give both, or neither"))
        if len(given) == 1:
            unread = [(key, kind) for kind, keys in SOURCE_KINDS.items() if kind not in given for key in keys]
            wrong += [
                ((key,), f"read with {kind} only, and this source has {given[0]}: drop one")
                for key, kind in unread
                if getattr(self, key) and (key, kind) != ("query", "sql")
            ]
        if self.query and not re.match(r"\s*(select|with)\b", self.query, re.I):
            wrong.append((("query",), "a source only reads; write one SELECT"))
        if self.sql and _PASSWORD.search(self.sql):
            wrong.append(
                (("sql",), "a password does not belong in a spec; write ${VAR} and set VAR in the environment")
            )
        if self.template is not None:
            try:
                template_columns(self.template)
            except ValueError as error:
                wrong.append((("template",), str(error)))
            if "input" in self.columns:
                wrong.append(
                    (("template",), "it builds the input, and columns > input names a column for it: drop one")
                )
        wrong += [
            (("columns", key), "no such column here; keys are input, target, id, group")
            for key in self.columns
            if key not in ("input", "target", "id", "group")
        ]
        if wrong:
            raise misfits(wrong)
        return self


class ExpectationSpec(Section):
    """One native Great Expectations expectation."""

    expectation: str
    """Class name, such as ExpectColumnValuesToMatchRegex."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Its keyword arguments."""
    severity: Literal["block", "warn"] = "block"
    """block stops the run before any training; warn is reported."""


class QualitySpec(Section):
    """What a task's rows must be like. Shares are of rows, lengths in backbone tokens."""

    min_rows: int = Field(default=20, ge=1)
    """Fewer training rows than this block."""
    max_over_length: Share = 0.1
    """A larger share of inputs over max_input_tokens warns."""
    max_duplicates: Share = 0.5
    """A larger share of duplicate rows in the source blocks."""
    max_leakage: Share = 0.05
    """A larger share of test inputs that also stand in training warns; such training rows are removed either way."""
    max_label_share: Share = 0.98
    """A label with a larger share of training rows blocks."""
    max_contradictions: Share = 0.1
    """A larger share of inputs with more than one target warns; such inputs are dropped for label tasks."""
    input_pattern: str | None = None
    """A regular expression that inputs should match; others warn."""
    language: Literal["en", "de", "fr", "es", "it", "pt", "nl"] | None = None
    """The language that inputs should be in, told by common words; unset: not looked at."""
    max_other_language: Share = 0.1
    """A larger share of inputs in another language warns."""
    max_drift: Share = 0.25
    """A larger distance from the champion's training rows (total variation of label shares, input lengths or common
    words) warns."""
    max_row_drop: Share = 0.5
    """A larger share of training rows, or of rows of a `test` source, gone since the champion's training blocks: a
    source that is cut off looks as the whole one does."""
    expectations: tuple[ExpectationSpec, ...] = ()
    """Further expectations, on the columns task, input, target, id, split, input_tokens, target_tokens of the rows
    of all splits, up to 100,000 of each."""

    @field_validator("input_pattern")
    @classmethod
    def _a_pattern(cls, value: str | None) -> str | None:
        try:
            re.compile(value or "")
        except re.error as error:
            raise ValueError(f"{value!r} is no regular expression: {error}") from None
        return value


class TaskSpec(Section):
    """One data set with one objective."""

    name: Name
    """Lower case; how callers name the task."""
    type: TaskTypeName
    """Chooses the defaults of instruction, decoding and metrics."""
    source: SourceSpec
    """Training rows, and test rows too when `test` is unset."""
    test: SourceSpec | None = None
    """Test rows, where they come apart; unset: split off `source` by hash."""
    description: str = ""
    """One sentence for the model card."""
    licence: str = ""
    """Licence of the rows, shown in the model card."""
    instruction: str | None = None
    """Put before the input; unset means the task type's."""
    labels: tuple[str, ...] | None = None
    """Allowed targets of a label task; unset: those of the training rows."""
    metrics: tuple[MetricName, ...] | None = None
    """The first is the task's score; unset means the task type's. macro_f1 has no score per row: where models are
    compared row by row, in the macro difference of promotion and in ablation, accuracy stands for it."""
    max_input_tokens: int = Field(default=256, ge=8)
    """Longer inputs are cut at the end, in training and in use."""
    max_target_tokens: int | None = Field(default=None, ge=1)
    """Unset means the task type's."""
    quality: QualitySpec = QualitySpec()
    """What the rows must be like."""

    @field_validator("labels")
    @classmethod
    def _written_as_targets_are(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        labels = value and tuple(map(clean, value))
        if labels and not all(labels):
            raise ValueError("one of them is empty; drop it")
        return labels

    @field_validator("metrics")
    @classmethod
    def _one_to_score_by(cls, value: tuple[MetricName, ...] | None) -> tuple[MetricName, ...] | None:
        if value == ():
            raise ValueError("names none; give one or more, or drop the key for the task type's")
        return value

    @model_validator(mode="after")
    def _labels_fit_the_type(self) -> "TaskSpec":
        if self.labels is not None:
            if not self.task_type.labelled:
                problem = f"a task of type {self.type} has none; drop them, or set another type"
                raise misfits([(("labels",), problem)])
            if len(set(self.labels)) < 2 or len(set(self.labels)) != len(self.labels):
                problem = f"two or more different ones are needed, got {', '.join(self.labels) or 'none'}"
                raise misfits([(("labels",), problem)])
        return self

    @property
    def task_type(self) -> TaskType:
        return TASK_TYPES[self.type]

    @property
    def content(self) -> dict[str, Any]:
        """What training, scoring and answering see of the task, as JSON has it: its rows are known by their digest."""
        return self.model_dump(mode="json", exclude={"source", "test", "quality", "description", "licence"})

    @property
    def effective_metrics(self) -> tuple[MetricName, ...]:
        return self.metrics or self.task_type.metrics

    @property
    def effective_max_target_tokens(self) -> int:
        return self.max_target_tokens or self.task_type.max_target_tokens

    @property
    def effective_instruction(self) -> str:
        return self.task_type.instruction if self.instruction is None else self.instruction


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


class StageSpec(Section):
    """One stage of training. A stage is data, run by one loop."""

    trains: tuple[Part, ...]
    """What trains: backbone, shared_adapters, task_adapters (adapters: those in use), gates. The rest is frozen."""
    active: Literal["all", "shared", "task"] = "all"
    """Which adapters exist in this stage; the others contribute nothing."""
    start: Literal["pretrained", "shared", "zero"] | None = None
    """What the task adapters are set to when the stage begins: the pretrained FFN, the shared adapter as trained so
    far, or a zero delta. Unset leaves them as they are."""
    gate: Literal["hard", "soft"] = "hard"
    """hard: a row reaches its home and the shared adapters only. soft: the gate's softmax over all."""
    keep: float = Field(default=0.97, gt=0, lt=1)
    """When a soft gate opens, the weight that stays where the hard gate had it; the rest is spread evenly."""
    epochs: float | None = Field(default=None, gt=0)
    """Passes over the training rows. Give epochs or steps."""
    steps: int | None = Field(default=None, ge=1)
    """Optimizer steps. Give epochs or steps."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """Peak rate of AdamW."""
    gate_learning_rate: float | None = Field(default=None, gt=0)
    """Peak rate of the gates' logits; unset means as learning_rate."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Shape of the rate after warm-up."""
    schedule_end: float = Field(default=0.0, ge=0, lt=1)
    """Share of the peak rate that a cosine or linear schedule ends at: where the next stage goes on."""
    warmup: Share = 0.05
    """Share of the steps over which the rate rises from zero."""
    weight_decay: float = Field(default=0.0, ge=0)
    """AdamW's decoupled weight decay."""
    clip: float = Field(default=1.0, gt=0)
    """Gradients are scaled down to this global norm."""
    rows_per_step: int = Field(default=32, ge=1)
    """Rows of one optimizer step, over all processes and accumulation steps."""
    accumulate: int = Field(default=1, ge=1)
    """Parts that a step's rows are run in, to save memory."""
    sampling_temperature: float = Field(default=1.0, ge=1)
    """T in p(task) proportional to rows^(1/T): 1 as the data are, large for equal shares."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass, to save memory."""
    evaluate_every: int | None = Field(default=None, ge=1)
    """Steps between validation scores by generated answers, which take time; unset: none, or ten of them when
    `patience` asks. The best of them is kept. The validation loss is always taken at the start and the end, and the
    score right before and after a stage opens the gates of the one before it, which is then one to beat."""
    patience: int | None = Field(default=None, ge=1)
    """Stop after so many validation scores without a better one, and keep the best; unset: never."""

    @model_validator(mode="after")
    def _is_a_stage(self) -> "StageSpec":
        wrong: list[Misfit] = []
        if (self.epochs is None) == (self.steps is None):
            wrong.append(((), "give exactly one of epochs, steps"))
        if not self.trains:
            wrong.append((("trains",), "name at least one part"))
        if "gates" in self.trains and self.gate == "hard":
            wrong.append((("trains",), "gates train where they are soft only; set gate: soft, or drop gates"))
        for part, other in (("task_adapters", "shared"), ("shared_adapters", "task")):
            if part in self.trains and self.active == other:
                problem = f"{part} take no part in a stage with active: {other}; drop one of the two"
                wrong.append((("trains",), problem))
        if wrong:
            raise misfits(wrong)
        return self

    @property
    def parts(self) -> frozenset[str]:
        """`trains`, with adapters spelt out as those that are in use: weight decay would shrink the others."""
        in_use = {"shared": ("shared_adapters",), "task": ("task_adapters",)}
        spelt = {"adapters": in_use.get(self.active, ("shared_adapters", "task_adapters"))}
        return frozenset(part for given in self.trains for part in spelt.get(given, (given,)))


class EvaluationSpec(Section):
    """How the held-out rows are scored."""

    max_rows: int | None = Field(default=None, ge=1)
    """At most so many test rows a task, chosen by hash; unset: all."""
    max_validation_rows: int | None = Field(default=None, ge=1)
    """At most so many validation rows a task while training; unset: all."""
    baselines: tuple[Literal["zero_shot", "majority"], ...] = ("zero_shot", "majority")
    """Scored beside the model in every run."""


class PromotionSpec(Section):
    """When a candidate becomes champion."""

    max_task_drop: Share = 0.02
    """No task's score may fall by more than this against the champion's, on the candidate's test rows. The fewer these
    are, the more often an equally good model falls so far by chance: of 50 rows, one is 0.02."""
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    """Of the paired bootstrap on the macro score."""


class ScheduleSpec(Section):
    """When the domain is produced unattended."""

    cron: str
    """Five fields, as in crontab; also L as the day (a month's last) and 5#4 as the weekday (its fourth Friday)."""
    timezone: str = "UTC"
    """IANA name, such as Europe/Berlin."""
    active: bool = True
    """false keeps the deployment and pauses its schedule."""

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        from zoneinfo import available_timezones

        if value not in available_timezones():
            close = difflib.get_close_matches(value, available_timezones(), 1)
            raise ValueError(f"unknown time zone {value!r}" + (f"; did you mean {close[0]!r}?" if close else ""))
        return value

    @field_validator("cron")
    @classmethod
    def _five_fields(cls, value: str) -> str:
        from cronsim import CronSim, CronSimError

        if len(value.split()) != 5:
            raise ValueError(f"cron needs five fields (minute hour day month weekday), got {value!r}")
        try:
            CronSim(value, datetime(2026, 1, 1))
        except CronSimError as error:
            problem = str(error)
            raise ValueError(f"{value!r} is no time that cron knows: {problem[:1].lower()}{problem[1:]}") from None
        # Prefect's own reading of cron knows less; it is not installed wherever specs are read.
        day, weekday = value.upper().split()[2::2]
        numbered = ["#" in term for term in weekday.split(",")]
        if any("L" in term and term != "L" for term in day.split(",")):
            raise ValueError(f"Prefect cannot start at {value!r}: of days with L it knows L alone, a month's last day")
        if "L" in weekday:
            raise ValueError(f"Prefect cannot start at {value!r}: it knows no last weekday; 5#4 is the fourth Friday")
        if any(numbered) and not all(numbered):
            raise ValueError(f"Prefect cannot start at {value!r}: write all weekdays with # or none")
        return value


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
    split: SplitSpec = SplitSpec()
    """How rows are divided into train, validation and test."""
    mta: MTAConfig = MTAConfig()
    """Where MTA layers go, and what they hold."""
    stage_one: StageSpec
    """Intra-task knowledge."""
    stage_two: StageSpec | None = None
    """Inter-task collaboration; unset: the bundle is what stage one left."""
    evaluation: EvaluationSpec = EvaluationSpec()
    """How the held-out rows are scored."""
    promotion: PromotionSpec = PromotionSpec()
    """When a candidate becomes champion."""
    warm_start: Literal["backbone", "champion"] = "backbone"
    """What stage one starts from when something has changed: the pretrained backbone, or the champion of the day, where
    its backbone, tasks, split and `mta` are the same."""
    schedule: ScheduleSpec | None = None
    """When the domain is produced unattended; unset: only by hand."""
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
        return value

    @model_validator(mode="after")
    def _sections_fit(self) -> "DomainSpec":
        if wrong := list(_misfits(self.task_names, self.mta, self.stages.items(), self.warm_start)):
            raise misfits(wrong)
        return self

    @property
    def task_names(self) -> tuple[str, ...]:
        return tuple(task.name for task in self.tasks)

    @property
    def stages(self) -> dict[Literal["stage_one", "stage_two"], StageSpec]:
        """Name -> stage, in the order that they train."""
        first: dict[Literal["stage_one", "stage_two"], StageSpec] = {"stage_one": self.stage_one}
        return first | ({"stage_two": self.stage_two} if self.stage_two else {})

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
        """Of everything that can change a version: not the schedule, not the domain's description."""
        return digest_of(self.model_dump(mode="json", exclude={"schedule", "description"}))


def _misfits(
    names: Sequence[str], mta: MTAConfig | None, stages: Iterable[tuple[str, StageSpec]], warm_start: str
) -> Iterator[Misfit]:
    """What does not fit between sections. mta: None where it could not be read; such stages are left out."""
    for number, name in enumerate(names):
        if name in names[:number]:
            yield ("tasks", number, "name"), f"{name!r} is used more than once; rename all but one"
    stages = tuple(stages)
    if warm_start == "champion" and any(name == "stage_one" and stage.start is not None for name, stage in stages):
        yield ("warm_start",), "champion brings trained adapters, and stage_one > start would undo them: drop one"
    if mta is None:
        return
    for task, home in mta.homes.items():
        for strange in sorted({task, home} - set(names)):
            yield ("mta", "homes", task), f"{strange!r} is no task; tasks are {', '.join(names)}"
        if mta.homes.get(home, home) != home:
            yield (
                ("mta", "homes", task),
                f"starts on the adapter of {home}, whose own home is {mta.homes[home]}: name that",
            )
    for name, stage in stages:
        yield from (((name, key), problem) for key, problem in _stage_misfits(names, mta, stage))


def _stage_misfits(names: Sequence[str], mta: MTAConfig, stage: StageSpec) -> Iterator[tuple[str, str]]:
    """Keys of `stage` that ask of adapters what `mta` does not give, and why."""
    trains = ", ".join(stage.trains)
    if mta.layers == "none" and mta.encoder_layers in (None, "none"):
        if "backbone" not in stage.parts:
            yield "trains", f"{trains}: mta > layers: none leaves the backbone alone to train; name it, or give layers"
        return
    if stage.parts == {"shared_adapters"} and not mta.shared_adapters:
        yield "trains", f"{trains}: there are none; set mta > shared_adapters: 1"
    beside = mta.shared_adapters if mta.shared_place == "beside" else 0
    own = len({mta.homes.get(task, task) for task in names})
    weighed = {"all": own + beside, "shared": beside, "task": own}[stage.active]
    if stage.parts == {"gates"} and weighed < 2:
        yield (
            "trains",
            f"{trains}: they would weigh {weighed} adapter, and learn nothing; train adapters, or drop the stage",
        )
    if stage.start == "shared" and mta.shared_adapters != 1:
        yield "start", f"shared needs mta > shared_adapters: 1, got {mta.shared_adapters}"
    if stage.start == "pretrained" and mta.shared_place == "beneath":
        yield "start", "pretrained: under shared_place: beneath task adapters lie on the shared one; write zero"


def _misfits_of_readable(values: Mapping[str, Any]) -> list[Misfit]:
    """What does not fit between those sections of a spec that are right each for itself."""
    tasks = values.get("tasks")
    given = [task.get("name") for task in tasks if isinstance(task, dict)] if isinstance(tasks, list) else []
    names = [name for name in given if isinstance(name, str)]
    if not names or len(names) < len(tasks or ()):
        return []
    stages = [(key, _readable(StageSpec, values.get(key))) for key in ("stage_one", "stage_two")]
    mta = _readable(MTAConfig, values.get("mta", {}))
    right = [(key, stage) for key, stage in stages if stage]
    return list(_misfits(names, mta, right, values.get("warm_start", "backbone")))


def _readable(section: type[SectionT], value: Any) -> SectionT | None:
    try:
        return section.model_validate(value)
    except ValidationError:
        return None


def load_domain(path: Path) -> DomainSpec:
    """Read a domain.yaml, or the one in a folder. Raises SpecError with every problem at once."""
    file = path / "domain.yaml" if path.is_dir() else path
    values, node, problems = read_mapping(file)
    try:
        spec = DomainSpec.model_validate(values)
    except ValidationError as error:
        # pydantic looks between sections once each of them is right, and not before.
        between = _misfits_of_readable(values) if any(item["loc"] for item in error.errors()) else []
        problems += explained(error, DomainSpec, values, node, between)
    if problems:
        problems.sort(key=lambda problem: int(problem.removeprefix("line ").partition(":")[0]))
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise SpecError(f"{file}: {count}", problems)
    return spec
