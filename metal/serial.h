// COM1, and the end of the run. Both work from the first instruction on and need nothing.
#pragma once
#include <string_view>

#include "core/base/types.h"

namespace perdure::metal {

void serial_init();
void serial_write(std::string_view text);
u8 serial_read();  // waits for a byte

// QEMU's isa-debug-exit: the process ends with status 2 * code + 1.
enum class Verdict : u32 {
  Passed = 0x10,  // 33
  Failed = 0x11,  // 35
  Broken = 0x12,  // 37: a panic or an exception, after a log line
};
[[noreturn]] void end_run(Verdict verdict);

}  // namespace perdure::metal
