"""The header of a model card as a hub of models reads it: YAML between two lines of dashes, before the Markdown."""

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

from registry.facts import CardFacts
from registry.scorecard import own_scorecard


def front_matter(facts: CardFacts, only: str | None = None) -> str:
    """Licence, base model, tags and scores, as the Hugging Face hub has them: a licence that has no SPDX name is
    `other`, with its words beside it. only: the task whose scores are given; unset: all."""
    from huggingface_hub import EvalResult, ModelCardData  # half a second to import

    backbone, own = facts.get("backbone", {}), own_scorecard(facts["scorecards"])
    licence, name = backbone.get("licence", ""), None
    try:
        licence = canonicalize_license_expression(licence).lower()
    except InvalidLicenseExpression:
        licence, name = "other", licence or "not stated"
    scores = [
        EvalResult(
            task_type="text-generation",
            dataset_type=task,
            dataset_name=f"{facts['domain']}: {task}, {score['rows']:,} test rows",
            metric_type=score["metric"],
            metric_value=round(score["metrics"][score["metric"]]["value"], 4),
        )
        for task, score in own["tasks"].items()
        if only in (None, task)
    ]
    data = ModelCardData(
        license=licence,
        license_name=name,
        base_model=backbone.get("model"),
        pipeline_tag="text-generation",
        tags=["alter-factory", "multi-task"],
        model_name=facts["domain"],
        eval_results=scores,
    )
    return f"---\n{data.to_yaml()}\n---\n"
