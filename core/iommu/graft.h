// The condition under which one page table may replace another under a running device.
#pragma once
#include "core/pt/io_page_table.h"

namespace perdure {

// Whatever a device reaches through `live` it reaches through `fresh`: every leaf of `live` leads to the same physical
// addresses there, with at least its access. `fresh` may map more. Returns the bytes that `live` maps; Einval for the
// first difference, which `at` names, Eio when `live` is not sound. Walks both tables once.
Result<u64> check_same_results(const pt::IoPageTable& live, const pt::IoPageTable& fresh, Iova& at);

}  // namespace perdure
