// Filters, tests, methods and global functions of the template language.
#pragma once

#include <string>

#include "text/jinja_value.h"

namespace nibble::jinja {
// args.positional[0] is the filter's input. Raises RenderError: unknown name, wrong arguments, a type that Python would refuse.
Value apply_filter(const std::string& name, const Arguments& args);
bool apply_test(const std::string& name, const Arguments& args);
// A bound method, or undefined when the value has none of that name.
Value method_of(const Value& object, const std::string& name);
// `range`, `namespace`, `raise_exception`, ...; undefined for unknown names.
Value global_function(const std::string& name);

Value add(const Value& a, const Value& b);
bool contains(const Value& container, const Value& item);
}  // namespace nibble::jinja
