"""What a version is made of, as other tools read it."""

import json

import yaml
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from registry.bill import bill_of
from registry.facts import CardFacts
from registry.front_matter import front_matter
from tests.registry.facts import card_facts


def with_licences(backbone: str, *tasks: str) -> CardFacts:
    facts = card_facts()
    facts["backbone"]["licence"] = backbone
    for task, licence in zip(facts["tasks"].values(), tasks, strict=True):
        task["licence"] = licence
    return facts


def test_a_bill_of_materials_is_what_the_published_schema_of_cyclonedx_takes() -> None:
    facts = with_licences("apache-2.0", "MIT OR CC-BY-4.0", "those of the packages read (PSF-2.0, MIT)", "")
    bill = bill_of(
        facts, "0f" * 32, ["torch==2.13.0", "numpy", "artifacts/code/alter_factory-0.1.0+ab-py3-none-any.whl"]
    )
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(bill)) is None
    parts = {part["bom-ref"]: part for part in bill["components"]}
    assert parts["backbone"]["licenses"] == [{"expression": "Apache-2.0"}]
    assert parts["data/intent"]["licenses"] == [{"expression": "MIT OR CC-BY-4.0"}]
    assert parts["data/title"]["licenses"] == [{"license": {"name": "those of the packages read (PSF-2.0, MIT)"}}]
    assert "licenses" not in parts["data/due"]
    assert {ref for ref in parts if ref.startswith("pkg:")} == {"pkg:pypi/torch@2.13.0", "pkg:pypi/numpy"}
    assert bill["metadata"]["component"]["hashes"] == [{"alg": "SHA-256", "content": "0f" * 32}]


def test_the_same_bundle_has_the_same_bill() -> None:
    assert bill_of(card_facts(), "0f" * 32, []) == bill_of(card_facts(), "0f" * 32, [])


def test_a_card_for_a_hub_opens_with_its_licence_base_model_and_scores() -> None:
    facts = with_licences("Apache-2.0", "MIT", "MIT", "MIT")
    header = yaml.safe_load(front_matter(facts).strip().strip("-"))
    assert header["license"] == "apache-2.0"
    assert header["base_model"] == facts["backbone"]["model"]
    assert {
        (result["dataset"]["type"], result["metrics"][0]["type"]) for result in header["model-index"][0]["results"]
    } == {("intent", "accuracy"), ("title", "rouge_l"), ("due", "token_f1")}
    one = yaml.safe_load(front_matter(facts, "title").strip().strip("-"))
    assert [result["dataset"]["type"] for result in one["model-index"][0]["results"]] == ["title"]
    other = yaml.safe_load(front_matter(with_licences("our own terms", "", "", "")).strip().strip("-"))
    assert (other["license"], other["license_name"]) == ("other", "our own terms")
