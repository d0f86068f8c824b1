#!/usr/bin/env python3
"""Writes tests/data/structured/schemas.jsonl: 300 JSON schemas that together use every keyword, each with what must come of it.

A line is {"name", "schema"} (must compile, and every reply must be valid) or {"name", "schema", "refused": keyword} (strict: refused by that name).
The same seed gives the same file.
"""
import itertools
import json
import pathlib
import random

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests/data/structured/schemas.jsonl"
WORDS = "id name title city price count tags items kind unit start end note score size color owner email active parent".split()


def obj(properties, required=None, **more):
    return {"type": "object", "properties": properties, "required": list(properties) if required is None else required, **more}


def supported(rng):
    # One keyword at a time.
    yield "any", True
    yield "empty", {}
    for t in ("object", "array", "string", "number", "integer", "boolean", "null"):
        yield f"type-{t}", {"type": t}
    for a, b in itertools.combinations(("object", "array", "string", "number", "integer", "boolean", "null"), 2):
        yield f"types-{a}-{b}", {"type": [a, b]}
    yield "nullable", {"type": "string", "nullable": True, "maxLength": 8}
    for low, high in ((0, 0), (0, 5), (1, 1), (3, 8), (2, None), (None, 4), (20, 20)):
        yield f"length-{low}-{high}", {"type": "string", **({} if low is None else {"minLength": low}), **({} if high is None else {"maxLength": high})}
    for pattern in ("^[a-z]+$", "^a|b$", "^(foo|ba[rz])$", "^\\d{3}-\\d{4}$", "^[A-Z]{2,3}[0-9]?$", "x", "^x", "x$", "^[^\"]{1,5}$", "^\\w+@\\w+\\.com$", "^\\s?\\S$", "^.{2}$", "^[\\u00e0-\\u00ff]{1,3}$",
                    "^(a(b(c)?)?)?$", "^a*?b+?$", "^(?:ab|cd){2}$", "^\\\\$", "^\"$", "^[\"\\\\]{2}$", "^[\\n\\t]$", "^(?P<year>\\d{4})$", "^\\/$", "^-?(0|[1-9]\\d*)$", "^$"):
        yield f"pattern-{pattern}", {"type": "string", "pattern": pattern}
    yield "pattern-and-length", {"type": "string", "pattern": "^[a-f]+$", "minLength": 2, "maxLength": 6}
    for f in ("date", "time", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "uri", "uuid"):
        yield f"format-{f}", {"type": "string", "format": f}
    for low, high in ((0, 9), (0, 10), (1, 100), (-5, 5), (-120, -7), (17, 17), (999, 1001), (123, 98765), (0, None), (None, 0), (100, None), (None, -100), (-1, 1), (0, 2147483647)):
        limits = {**({} if low is None else {"minimum": low}), **({} if high is None else {"maximum": high})}
        yield f"integer-{low}-{high}", {"type": "integer", **limits}
        yield f"number-{low}-{high}", {"type": "number", **limits}
    for low, high in ((0, 1), (0, 10), (-3, 3), (0.5, 0.9), (0.25, 2.75), (-0.5, 0.5)):
        yield f"exclusive-{low}-{high}", {"type": "number", "exclusiveMinimum": low, "exclusiveMaximum": high}
        yield f"half-open-{low}-{high}", {"type": "number", "minimum": low, "exclusiveMaximum": high}
    yield "exclusive-integer", {"type": "integer", "exclusiveMinimum": 3, "exclusiveMaximum": 12}
    yield "exclusive-above-minimum", {"type": "integer", "minimum": 1, "exclusiveMinimum": 5, "maximum": 9}
    for step in (1, 2, 5, 7, 10, 100):
        yield f"multiple-{step}", {"type": "integer", "multipleOf": step}
    yield "multiple-number", {"type": "number", "multipleOf": 3}
    for values in (["red", "green"], [1, 2, 3], [True, None, "x", 1.5], [{"a": 1}, [1, 2]], ["a\"b", "c\\d", "e\nf"], ["\u00e4", "\u6f22\u5b57", "\U0001f600"], [""]):
        yield f"enum-{json.dumps(values)}", {"enum": values}
    yield "enum-typed", {"type": "string", "enum": ["a", 1, "b"]}
    yield "enum-limited", {"type": "integer", "enum": [1, 5, 9], "minimum": 4}
    for value in ("fixed", 7, None, {"deep": {"er": [1, {}]}}, []):
        yield f"const-{json.dumps(value)}", {"const": value}
    # Arrays.
    for low, high in ((0, 0), (0, 2), (1, None), (2, 2), (3, 5), (None, 1)):
        yield f"items-{low}-{high}", {"type": "array", "items": {"type": "integer"}, **({} if low is None else {"minItems": low}), **({} if high is None else {"maxItems": high})}
    yield "prefix-open", {"type": "array", "prefixItems": [{"type": "string", "maxLength": 3}, {"type": "integer"}]}
    yield "prefix-closed", {"type": "array", "prefixItems": [{"type": "boolean"}, {"type": "integer"}], "items": False, "minItems": 2}
    yield "prefix-rest", {"type": "array", "prefixItems": [{"const": "head"}], "items": {"type": "integer"}, "minItems": 1, "maxItems": 4}
    yield "prefix-short", {"type": "array", "prefixItems": [{"type": "null"}, {"type": "null"}, {"type": "null"}], "maxItems": 2}
    yield "prefix-old", {"$schema": "http://json-schema.org/draft-07/schema#", "type": "array", "items": [{"type": "integer"}, {"type": "null"}], "additionalItems": {"type": "boolean"}}
    yield "unevaluated-items", {"type": "array", "prefixItems": [{"type": "integer"}], "unevaluatedItems": False}
    yield "nested-arrays", {"type": "array", "items": {"type": "array", "items": {"type": "array", "items": {"type": "integer"}, "maxItems": 2}, "maxItems": 2}, "maxItems": 2}
    yield "unique-one", {"type": "array", "items": {"type": "integer"}, "uniqueItems": True, "maxItems": 1}
    # Objects.
    yield "closed", obj({"a": {"type": "integer"}}, additionalProperties=False)
    yield "open", obj({"a": {"type": "integer"}, "ab": {"type": "null"}}, additionalProperties=True)
    yield "map", {"type": "object", "additionalProperties": {"type": "integer"}}
    yield "map-beside", obj({"id": {"type": "string", "maxLength": 4}, "idx": {"type": "null"}}, additionalProperties={"type": "integer"})
    yield "required-unnamed", {"type": "object", "required": ["k"], "additionalProperties": {"type": "boolean"}}
    yield "unevaluated", obj({"a": {"type": "integer"}}, unevaluatedProperties=False)
    yield "no-properties", {"type": "object", "properties": {}, "additionalProperties": False}
    for low, high in ((1, None), (2, 2), (None, 1), (3, 3), (0, 0)):
        yield f"properties-{low}-{high}", obj({k: {"type": "integer"} for k in "abcd"}, [], additionalProperties=False, **({} if low is None else {"minProperties": low}), **({} if high is None else {"maxProperties": high}))
    yield "max-with-extra", obj({"a": {"type": "null"}}, [], additionalProperties={"type": "null"}, maxProperties=2)
    yield "pattern-properties", {"type": "object", "patternProperties": {"^x-[a-z]{1,3}$": {"type": "integer"}}, "additionalProperties": False}
    yield "odd-keys", obj({k: {"type": "null"} for k in ("with space", "quote\"", "back\\slash", "new\nline", "\u00fcml", "a:b", "{", "$x.y-z", "")}, additionalProperties=False)
    yield "false-property", obj({"a": {"type": "integer"}, "never": False}, ["a"], additionalProperties=True)
    # Combining.
    yield "any-of", {"anyOf": [{"type": "integer"}, {"type": "string", "maxLength": 4}, {"type": "null"}]}
    yield "any-of-base", {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}, "additionalProperties": False, "anyOf": [{"required": ["a"]}, {"required": ["b"]}]}
    yield "any-of-false", {"anyOf": [False, {"type": "null"}]}
    yield "one-of-types", {"oneOf": [{"type": "integer"}, {"type": "boolean"}]}
    yield "one-of-kinds", {"oneOf": [obj({"kind": {"const": k}, k: {"type": "integer"}}, additionalProperties=False) for k in ("circle", "square")], "discriminator": {"propertyName": "kind"}}
    yield "all-of", {"allOf": [obj({"a": {"type": "integer"}}), obj({"b": {"type": "string", "maxLength": 3}})]}
    yield "all-of-limits", {"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 8}, {"type": "number"}]}
    yield "all-of-enum", {"allOf": [{"enum": [1, 2, 3]}, {"enum": [2, 3, 4]}]}
    yield "all-of-closed", {"allOf": [obj({"a": {"type": "integer"}}, [], additionalProperties=False), {"required": ["a"]}]}
    yield "all-of-ref", {"$defs": {"base": obj({"id": {"type": "integer"}})}, "allOf": [{"$ref": "#/$defs/base"}, obj({"x": {"type": "null"}})]}
    yield "ref", {"$defs": {"p": {"type": "integer", "minimum": 0}}, **obj({"x": {"$ref": "#/$defs/p"}, "y": {"$ref": "#/$defs/p"}})}
    yield "ref-definitions", {"definitions": {"a/b": {"type": "null"}}, **obj({"x": {"$ref": "#/definitions/a~1b"}})}
    yield "ref-siblings", {"$defs": {"n": {"type": "integer"}}, **obj({"x": {"$ref": "#/$defs/n", "minimum": 5, "description": "at least five"}})}
    yield "ref-chain", {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"type": "boolean"}}, "$ref": "#/$defs/a"}
    yield "tree", {"$defs": {"node": obj({"v": {"type": "integer"}, "kids": {"type": "array", "items": {"$ref": "#/$defs/node"}, "maxItems": 2}}, ["v"], additionalProperties=False)}, "$ref": "#/$defs/node"}
    yield "list", {"$defs": {"list": {"anyOf": [{"type": "null"}, obj({"head": {"type": "integer"}, "tail": {"$ref": "#/$defs/list"}}, additionalProperties=False)]}}, "$ref": "#/$defs/list"}
    yield "root-ref", obj({"v": {"type": "integer"}, "next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}, ["v"], additionalProperties=False)
    yield "annotations", {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "https://example.com/x", "$comment": "c", "title": "T", "description": "d", "default": 3, "examples": [1], "deprecated": False,
                          "readOnly": True, "writeOnly": False, "x-own": 1, "type": "integer"}
    yield "untyped-object", {"properties": {"a": {"type": "integer"}}, "required": ["a"]}
    yield "untyped-array", {"items": {"type": "null"}, "maxItems": 3}
    yield "untyped-string", {"maxLength": 4}
    yield "untyped-number", {"minimum": 1, "maximum": 3}
    # What applications send: mixtures.
    leaves = [{"type": "string", "maxLength": 12}, {"type": "integer"}, {"type": "number", "minimum": 0, "maximum": 100}, {"type": "boolean"}, {"type": ["string", "null"], "maxLength": 6},
              {"enum": ["low", "high"]}, {"type": "string", "format": "date"}, {"type": "string", "pattern": "^[A-Z]{3}$"}, {"type": "array", "items": {"type": "string", "maxLength": 5}, "maxItems": 3}]

    def mixture(depth):
        names = rng.sample(WORDS, rng.randint(1, 5))
        properties = {}
        for name in names:
            roll = rng.random()
            if depth > 0 and roll < 0.25:
                properties[name] = mixture(depth - 1)
            elif depth > 0 and roll < 0.4:
                properties[name] = {"type": "array", "items": mixture(depth - 1), "maxItems": 2}
            elif roll < 0.5:
                properties[name] = {"anyOf": [rng.choice(leaves), {"type": "null"}]}
            else:
                properties[name] = rng.choice(leaves)
        return obj(properties, [n for n in names if rng.random() < 0.6], **({"additionalProperties": False} if rng.random() < 0.8 else {}))

    for i in itertools.count():
        yield f"mixture-{i}", mixture(2)


def refused():
    yield "not", {"not": {"type": "string"}}, "not"
    yield "not-inside", obj({"a": {"type": "string", "not": {"const": "x"}}}), "not"
    yield "if", {"type": "object", "if": {"required": ["a"]}, "then": {"required": ["b"]}}, "if"
    yield "then", {"type": "object", "then": {"required": ["b"]}}, "then"
    yield "else", {"type": "object", "else": {"required": ["b"]}}, "else"
    yield "dependent-required", {"type": "object", "dependentRequired": {"a": ["b"]}}, "dependentRequired"
    yield "dependent-schemas", {"type": "object", "dependentSchemas": {"a": {"required": ["b"]}}}, "dependentSchemas"
    yield "dependencies", {"type": "object", "dependencies": {"a": ["b"]}}, "dependencies"
    yield "property-names", {"type": "object", "propertyNames": {"maxLength": 3}}, "propertyNames"
    yield "contains", {"type": "array", "contains": {"type": "integer"}}, "contains"
    yield "min-contains", {"type": "array", "minContains": 2}, "minContains"
    yield "max-contains", {"type": "array", "maxContains": 2}, "maxContains"
    yield "content-schema", {"type": "string", "contentSchema": {"type": "object"}}, "contentSchema"
    yield "dynamic-ref", {"$dynamicRef": "#x"}, "$dynamicRef"
    yield "recursive-ref", {"$recursiveRef": "#"}, "$recursiveRef"
    yield "unknown-word", {"type": "integer", "minimun": 3}, "minimun"
    yield "unique", {"type": "array", "items": {"type": "integer"}, "uniqueItems": True}, "uniqueItems"
    yield "multiple-fraction", {"type": "number", "multipleOf": 0.01}, "multipleOf"
    yield "multiple-limited", {"type": "integer", "multipleOf": 5, "minimum": 3}, "multipleOf"
    yield "multiple-large", {"type": "integer", "multipleOf": 4096}, "multipleOf"
    yield "format-unknown", {"type": "string", "format": "iban"}, "format"
    yield "format-length", {"type": "string", "format": "date", "maxLength": 3}, "maxLength"
    yield "format-pattern", {"type": "string", "format": "date", "pattern": "^2"}, "format"
    for what, pattern in (("ahead", "^(?=a)b$"), ("behind", "(?<!a)b"), ("reference", "^(a)\\1$"), ("boundary", "\\bx"), ("property", "^\\p{L}$"), ("flags", "(?i)x"), ("inner-anchor", "a^b"), ("open", "(a"), ("range", "[z-a]"),
                          ("repeat", "a{2,1}"), ("huge", "a{20000}"), ("nothing", "[]"), ("escape", "\\y")):
        yield f"pattern-{what}", {"type": "string", "pattern": pattern}, "pattern"
    yield "pattern-length", {"type": "string", "pattern": "^a+b+$", "maxLength": 5}, "pattern"
    yield "pattern-properties-two", {"type": "object", "patternProperties": {"^a": {}, "^b": {}}}, "patternProperties"
    yield "pattern-properties-beside", {"type": "object", "properties": {"a": {}}, "patternProperties": {"^b": {}}}, "patternProperties"
    yield "min-properties-free", {"type": "object", "additionalProperties": {"type": "integer"}, "minProperties": 3}, "minProperties"
    yield "enum-pattern", {"enum": ["a", "b"], "pattern": "^a$"}, "pattern"
    yield "enum-object", {"enum": [{"a": 1}], "required": ["a"]}, "required"
    yield "required-impossible", {"type": "object", "properties": {}, "required": ["a"], "additionalProperties": False}, "required"
    yield "ref-outside", {"$ref": "https://example.com/other.json"}, "$ref"
    yield "ref-nowhere", {"$ref": "#/$defs/none"}, "$ref"
    yield "ref-circle", {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}, "$ref"
    yield "two-patterns", {"allOf": [{"type": "string", "pattern": "^a"}, {"pattern": "b$"}]}, "pattern"
    yield "two-any-of", {"anyOf": [{"type": "integer"}], "allOf": [{"anyOf": [{"minimum": 3}]}]}, "anyOf"
    for keyword, value in (("type", "text"), ("type", []), ("type", 5), ("properties", []), ("properties", {"a": 1}), ("required", "a"), ("required", [1]), ("items", 3), ("prefixItems", {}), ("enum", []), ("enum", "a"),
                           ("anyOf", []), ("anyOf", {}), ("minLength", -1), ("minLength", "3"), ("maxItems", 1.5), ("minimum", "0"), ("multipleOf", 0), ("pattern", 1), ("format", 1), ("$ref", 1), ("nullable", "yes"),
                           ("additionalProperties", 1), ("uniqueItems", 1), ("allOf", [1]), ("minItems", 1000000)):
        yield f"malformed-{keyword}-{json.dumps(value)}", {keyword: value} if keyword != "minItems" else {"type": "array", keyword: value}, keyword


def main():
    lines = [{"name": f"refused-{name}", "schema": schema, "refused": keyword} for name, schema, keyword in refused()]
    for name, schema in supported(random.Random(20)):
        if len(lines) == 300:
            break
        lines.append({"name": name, "schema": schema})
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text("".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines))
    print(f"{len(lines)} schemas, {sum('refused' in line for line in lines)} of them refused, {OUT.stat().st_size} bytes")


if __name__ == "__main__":
    main()
