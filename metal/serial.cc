#include "metal/serial.h"

#include "metal/io.h"

namespace perdure::metal {

namespace {

constexpr u16 kCom1 = 0x3F8;
constexpr u16 kData = kCom1, kInterrupts = kCom1 + 1, kFifo = kCom1 + 2, kLineControl = kCom1 + 3,
              kModemControl = kCom1 + 4, kLineStatus = kCom1 + 5;
constexpr u8 kReceived = 1, kEmpty = 0x20;
constexpr unsigned kFifoBytes = 16;
constexpr u16 kDebugExit = 0xF4;
constexpr u32 kExitTakes = 100'000'000;

}  // namespace

void serial_init() {
  out8(kInterrupts, 0);
  out8(kLineControl, 0x80);  // divisor 1: 115200
  out8(kData, 1);
  out8(kInterrupts, 0);
  out8(kLineControl, 3);  // 8 data bits
  out8(kFifo, 7);
  out8(kModemControl, 3);
}

void serial_write(std::string_view text) {
  while (!text.empty()) {
    while ((in8(kLineStatus) & kEmpty) == 0) cpu_relax();
    usize n = 0;
    for (; n < text.size() && n < kFifoBytes; ++n) out8(kData, static_cast<u8>(text[n]));
    text.remove_prefix(n);
  }
}

u8 serial_read() {
  while ((in8(kLineStatus) & kReceived) == 0) cpu_relax();
  return in8(kData);
}

void end_run(Verdict verdict) {
  interrupts_off();
  while ((in8(kLineStatus) & 0x40) == 0) cpu_relax();  // all is sent
  out32(kDebugExit, static_cast<u32>(verdict));
  // QEMU 10 takes its time.
  for (u32 i = 0; i < kExitTakes; ++i) cpu_relax();
  serial_write("there is no isa-debug-exit device at 0xf4; halted\n");
  for (;;) halt();
}

}  // namespace perdure::metal
