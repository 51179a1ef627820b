"""What a scorecard says of its scores as probabilities: in sentences, and as metrics of an MLflow run."""

from registry.scorecard import Abstention, Bound, Scorecard


def calibration_lines(card: Scorecard) -> list[str]:
    """What a model's scores are worth as probabilities and which answers abstain, one sentence each."""
    lines = []
    for name, task in card["tasks"].items():
        if found := task.get("calibration"):
            before, after = (found[side]["error"] for side in ("before", "after"))
            on = f"on {task['rows']:,} test rows, in bins of a tenth"
            if found["temperature"] is None:
                lines.append(
                    f"{name}: no temperature, as {found['reason']}; expected calibration error {before:.3f} {on}"
                )
            else:
                fitted = f"temperature {found['temperature']:.2f}, from {found['validation_rows']:,} validation rows"
                lines.append(
                    f"{name}: {fitted}; expected calibration error {before:.3f} before, {after:.3f} after, {on}"
                )
        if held := task.get("abstention"):
            bound = found.get("bound") if found else None
            lines.append(f"{name}: " + (_fitted(bound, held, task["rows"]) if bound else _given(held)))
    return lines


def _given(held: Abstention) -> str:
    """What a bound of the spec does."""
    rest = "none is left" if held["rest"] is None else f"the others score {held['rest']:.3f}"
    return f"abstains below {held['below']:g}, which are {held['share']:.1%} of test rows; {rest}"


def _fitted(bound: Bound, held: Abstention, rows: int) -> str:
    """What a fitted bound is and does. rows: of the test."""
    asked = f"{bound['precision']:.1%} of answers right"
    if not bound["kept"]:
        return f"abstains always, as its validation rows show no bound that leaves {asked}"
    shown = f"which is to leave {asked}: {bound['right']:,} of {bound['kept']:,} validation rows above it are"
    reached = "none is left" if bound["reached"] is None else f"{bound['reached']:.1%} of the others are right"
    return f"abstains below {bound['below']:.3f}, {shown}; {held['share']:.1%} of {rows:,} test rows abstain, {reached}"


def calibration_metrics(card: Scorecard) -> dict[str, float]:
    """The same as metrics of an MLflow run."""
    metrics: dict[str, float] = {}
    for name, task in card["tasks"].items():
        if found := task.get("calibration"):
            metrics[f"test.{name}.calibration_error_before"] = found["before"]["error"]
            metrics[f"test.{name}.calibration_error"] = found["after"]["error"]
            metrics[f"test.{name}.temperature"] = found["temperature"] or 1.0
        if held := task.get("abstention"):
            metrics[f"test.{name}.abstain_below"] = held["below"]
            metrics[f"test.{name}.abstain_share"] = held["share"]
            metrics |= {} if held["rest"] is None else {f"test.{name}.score_of_rest": held["rest"]}
    return metrics
