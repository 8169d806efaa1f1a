"""Validates values by JSON Schemas; prints each that is not as expected, and ends with 1 if there are any.

Standard input: {"components": ..., "cases": [{"name", "schema", "value", "valid"}]}. References in a schema lead to
the components.
"""

import json
import sys

from jsonschema import Draft202012Validator

given = json.load(sys.stdin)
wrong = 0
for case in given["cases"]:
    schema = {**case["schema"], "components": given["components"]}
    Draft202012Validator.check_schema(schema)
    validator = Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)
    errors = [error.message for error in validator.iter_errors(case["value"])]
    if (not errors) != case["valid"]:
        wrong += 1
        print(f"{case['name']}: {errors or 'valid'}: {json.dumps(case['value'])}")
sys.exit(min(wrong, 1))
