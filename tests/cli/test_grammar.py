"""Constrained decoding against an independent validator of JSON schemas.

Random answers must hold in their schema.  With the official suite (json-schema-org/JSON-Schema-Test-Suite, its tests/draft2020-12
in ../shared/data/json-schema-suite or JSON_SCHEMA_SUITE) no text that a test calls invalid may be accepted.
"""
import json
import os
import pathlib
import subprocess

import pytest

from conftest import MINKE, ROOT, SHARED

jsonschema = pytest.importorskip("jsonschema")
PROGRAM = MINKE.parent / "chat_test_grammar_walk"
SUITE = pathlib.Path(os.environ.get("JSON_SCHEMA_SUITE", SHARED / "json-schema-suite"))

SCHEMAS = [
    {"type": "object", "properties": {"name": {"type": "string", "minLength": 1, "maxLength": 20},
                                      "age": {"type": "integer", "minimum": 0, "maximum": 130},
                                      "email": {"type": "string", "format": "email"}},
     "required": ["name", "age"], "additionalProperties": False},
    {"type": "array", "items": {"type": "number", "exclusiveMinimum": -1.25, "maximum": 7.5}, "minItems": 1, "maxItems": 5},
    {"type": "integer", "exclusiveMinimum": -1005, "maximum": -17},
    {"type": "number", "minimum": 0.001, "exclusiveMaximum": 0.0125},
    {"type": "string", "pattern": "^[0-9]{3}-(ab|c+d)?x"},
    {"type": "string", "pattern": "^\\w{3,9}\\.(json|txt)$"},
    {"anyOf": [{"type": "string", "format": f} for f in ("date", "time", "date-time", "uuid", "ipv4", "ipv6", "duration",
                                                         "hostname", "uri")]},
    {"enum": ["a", 1, 2.5, None, True, {"k": [1, "\u20ac\n"]}]},
    {"$ref": "#/$defs/node", "$defs": {"node": {"type": "object", "required": ["value"], "additionalProperties": False,
     "properties": {"value": {"type": ["integer", "null"]}, "left": {"$ref": "#/$defs/node"}, "right": {"$ref": "#/$defs/node"}}}}},
    {"allOf": [{"type": "object", "properties": {"kind": {"enum": ["a", "b"]}}, "required": ["kind"]},
               {"oneOf": [{"properties": {"kind": {"const": "a"}, "n": {"type": "integer"}}, "required": ["n"]},
                          {"properties": {"kind": {"const": "b"}, "s": {"type": "string"}}, "required": ["s"]}]}]},
    {"type": "object", "properties": {"a": {"type": "null"}, "ab": {"type": "null"}}, "additionalProperties": {"type": "integer"}},
    {"type": "object", "patternProperties": {"^v[0-9]+$": {"type": "boolean"}}, "additionalProperties": False, "minProperties": 1},
    {"type": "object", "propertyNames": {"maxLength": 3}, "additionalProperties": {"type": "string"}, "maxProperties": 3},
    {"prefixItems": [{"type": "string"}, {"type": "integer"}], "items": {"type": "boolean"}, "minItems": 1, "maxItems": 4},
    {"type": "object"},
]


def ask(args, lines):
    out = subprocess.run([PROGRAM, *args], input="".join(json.dumps(x) + "\n" for x in lines), text=True, capture_output=True,
                         check=True, timeout=300, cwd=ROOT)
    return out.stdout.split("\n")[:-1]  # texts may hold other line ends


def check(schema):
    return jsonschema.Draft202012Validator(schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER)


def test_random_answers_hold():
    ended = 0
    for schema, line in zip(SCHEMAS, ask(["walk", "7", "25"], SCHEMAS), strict=True):
        answers = json.loads(line)
        assert isinstance(answers, list), (schema, answers)
        assert answers, schema  # some answer ended
        ended += len(answers)
        for text in answers:
            error = next(check(schema).iter_errors(json.loads(text)), None)
            assert error is None, (schema, text, error.message)
    assert ended > 15 * len(SCHEMAS)


def suite_cases():
    for path in sorted((SUITE / "tests/draft2020-12").glob("*.json")):
        for group in json.loads(path.read_text()):
            for test in group["tests"]:
                yield path.stem, group, test


@pytest.mark.skipif(not SUITE.exists(), reason="the official suite is not here")
def test_official_suite(capsys):
    cases = list(suite_cases())
    lines = [[g["schema"], json.dumps(t["data"], ensure_ascii=False, separators=(",", ":"))] for _, g, t in cases]
    said = ask(["accept"], lines)
    wrong, taken, valid, refused = [], 0, 0, 0
    for (name, group, test), line in zip(cases, said, strict=True):
        refused += line.startswith("refused")
        # oneOf is taken as anyOf (docs/structured-output.md)
        if line == "yes" and not test["valid"] and name != "oneOf":
            wrong.append((name, group["description"], test["description"]))
        if test["valid"] and not line.startswith("refused"):
            valid += 1
            taken += line == "yes"
    with capsys.disabled():
        print(f"\n{len(cases)} cases, {refused} refused; {taken} of {valid} valid texts accepted, {len(wrong)} invalid ones")
    assert not wrong
