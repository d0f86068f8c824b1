// The calibration step of `nibble quantize`: text, forward passes, amax.json, and the scales that follow.
#pragma once

#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "app/quantize_command.h"
#include "kernels/backend.h"
#include "quant/quantize.h"

namespace nibble {
// Rows of one forward pass: --batch_size samples, or as many as repay repacking the weights.
int32_t calibration_rows(const QuantizeFlags& flags);

// What is left of the machine's memory without swapping.
int64_t available_memory_bytes();

// Scales by tensor name, empty where the recipe and flags want none; `report`: what was seen, for report.json. The state of a run is kept in the partial folder as
// amax.json and goes on from there; it stays in the finished folder.
std::map<std::string, float> calibrate_for(const QuantizeFlags& flags, const QuantizeOptions& options, Backend& backend, nlohmann::ordered_json& report);
}  // namespace nibble
