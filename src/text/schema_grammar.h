// JSON Schema to EBNF: every text that the grammar allows is a value that the schema accepts.
//
// The other way round it keeps to what models need: members come in the order of `properties`, in native spelling sorted by name, case aside, as the templates' dictsort
// shows them to the model; further ones after them; white space is bounded; integers have at most 18 digits; a `format` and the regular expressions mean what
// docs/formats/structured-output.md says. oneOf is read as anyOf.
//
// A keyword that cannot be kept to is refused by name when `strict`; otherwise it is left out and reported. What makes no sense (a type that does not exist, a
// $ref that leads nowhere, a schema that no value satisfies) is always refused. Refusals throw Error(invalid_argument) with the keyword and its place.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "text/ebnf.h"

namespace nibble {
struct SchemaOptions {
  Spelling spelling = Spelling::json;  // json: JSON text; native: the values of a Gemma tool call
  bool strict = false;                 // objects take no further members unless additionalProperties says so; see above
  bool closed = false;                 // objects with `properties` take no further members unless additionalProperties says so
  int max_whitespace = 32;             // in a row between JSON's tokens: a line feed and blanks behind it; 0: exactly ", " and ": " as separators
  std::string quote;                   // native: the expression of the string delimiter, "Token(52)"
};

// An expression for the schema's values, with its rules added to `rules`. Keywords left out are appended to `left_out`.
std::string schema_to_ebnf(const nlohmann::ordered_json& schema, const SchemaOptions& options, EbnfRules& rules, std::vector<std::string>& left_out);
// A native call's arguments, braces included: an object of the schema, {} without one.
std::string call_members_to_ebnf(const nlohmann::ordered_json& schema, const SchemaOptions& options, EbnfRules& rules, std::vector<std::string>& left_out);
// Any JSON object.
std::string any_object_to_ebnf(const SchemaOptions& options, EbnfRules& rules);
}  // namespace nibble
