// The flags of `serve` as data: name, type, what becomes of it, and why.
#pragma once

#include <span>
#include <string>

namespace nibble {
struct Flag {
  enum class Type { text, integer, number, numbers, boolean, json };
  enum class Fate { use, ignore, refuse };

  const char* name;
  Type type;
  Fate fate;
  const char* fallback;  // of used flags
  const char* help;      // meaning; why ignored; why refused and what instead
};

// In the order of --help.
std::span<const Flag> serve_flag_table();

// What becomes of a flag that is not in the table but belongs to a family ("disaggregation-mode"); nullptr: unknown. Its type is text.
const Flag* serve_flag_family(const std::string& name);
}  // namespace nibble
