#!/usr/bin/env python3
"""Holds resources, one JSON document a line, against an independent model of FHIR: STU3, or another release.

The model of R4B stands for R4, whose AuditEvent it did not change.
"""

import importlib
import json
import sys


def model(release, kind):
    module = importlib.import_module(f"fhir.resources.{release}.{kind.lower()}")
    return getattr(module, kind)


def main(path, release="STU3"):
    counts, faults = {}, 0
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            resource = json.loads(line)
            kind = resource.get("resourceType", "nothing")
            counts[kind] = counts.get(kind, 0) + 1
            try:
                model(release, kind).model_validate(resource)
            except Exception as fault:  # whatever it is, it is the resource's
                faults += 1
                print(f"line {number}, {kind}: {fault}", file=sys.stderr)
    print(", ".join(f"{count} {kind}" for kind, count in sorted(counts.items())))
    if faults or not counts:
        sys.exit(f"{faults} of {sum(counts.values())} resources are not valid {release}")


main(*sys.argv[1:])
