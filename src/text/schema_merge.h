// JSON Schema as data: which keywords there are, where references lead, and one schema for two that both must hold.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "base/error.h"

namespace nibble {
using SchemaJson = nlohmann::ordered_json;

// Says nothing about which values are valid.
bool is_annotation(const std::string& keyword);
// One that this build can keep to, at least in common cases.
bool is_known_keyword(const std::string& keyword);

// A regular expression for a `format`, looser than its standard where that is hard (no leap days); nullptr: not known.
const char* format_pattern(const std::string& format);

[[noreturn]] void refuse_schema(const std::string& keyword, const std::string& place, const std::string& why);
// Refuses keywords of wrong types, here (not below): "type" must be a string or strings, and so on.
void check_shape(const SchemaJson& schema, const std::string& place);

// What "#/..." points at in `root`.
const SchemaJson& resolve_reference(const SchemaJson& root, const std::string& reference, const std::string& place);

// Valid where both are. Refuses pairs of keywords that have no common form here (two patterns, two anyOf).
SchemaJson merge_schemas(const SchemaJson& a, const SchemaJson& b, const std::string& place);
}  // namespace nibble
