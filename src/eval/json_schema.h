// The part of JSON Schema that marking needs: type, enum, const, properties, required, additionalProperties, items, bounds, lengths, pattern, anyOf, oneOf, allOf,
// and references into the schema's own $defs.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

namespace nibble {
// "" when the value is valid, else the first problem with its path.
std::string schema_problem(const nlohmann::ordered_json& schema, const nlohmann::ordered_json& value);
}  // namespace nibble
