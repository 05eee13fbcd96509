"""Makes the folder of schemas that kubeconform reads: schemas.py WHEEL VARIANT CRDS INTO.

WHEEL is kubernetes-validate's, VARIANT a folder of schemas in it, CRDS a folder of CustomResourceDefinitions. A field that a schema
does not know is an error, as in the API server's strict validation.
"""

import json
import sys
import zipfile
from pathlib import Path

import yaml

# a lone "=", as an enum of operators has it, is a value of its own in YAML 1.1, which PyYAML reads nowhere
yaml.SafeLoader.add_constructor("tag:yaml.org,2002:value", lambda loader, node: node.value)


def strict(schema):
    """The schema of a CRD as plain JSON Schema that refuses unknown fields."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(value) for key, value in schema.items()}
    if made.pop("x-kubernetes-int-or-string", False):
        made.pop("anyOf", None)
        made["oneOf"] = [{"type": "string"}, {"type": "integer"}]
    if made.pop("nullable", False) and isinstance(made.get("type"), str):
        made["type"] = [made["type"], "null"]
    if isinstance(made.get("properties"), dict) and not made.get("x-kubernetes-preserve-unknown-fields"):
        made.setdefault("additionalProperties", False)
    return made


def main(wheel: str, variant: str, crds: str, into: str) -> None:
    """Writes every schema."""
    into = Path(into)
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            path = Path(name)
            if path.parent.name != variant or path.suffix != ".json":
                continue
            schema = json.loads(archive.read(name))
            # the identity is a place in the wheel's own server: references go to the file beside this one
            schema.pop("$id", None)
            (into / path.name).write_text(json.dumps(schema).replace('"/api/_definitions.json', '"_definitions.json'))
    for file in sorted(Path(crds).glob("*.yaml")):
        for crd in yaml.safe_load_all(file.read_text()):
            if not crd or crd.get("kind") != "CustomResourceDefinition":
                continue
            spec = crd["spec"]
            group = spec["group"].split(".")[0]
            for version in spec["versions"]:
                schema = strict(version["schema"]["openAPIV3Schema"])
                # any object may have these, and all of metadata is Kubernetes' own
                schema["properties"].update({"apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": {"type": "object"}})
                name = f"{spec['names']['kind'].lower()}-{group}-{version['name']}.json"
                (into / name).write_text(json.dumps(schema))


if __name__ == "__main__":
    main(*sys.argv[1:])
