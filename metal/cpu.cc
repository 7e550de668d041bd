#include "metal/cpu.h"

#include "core/base/log.h"
#include "metal/io.h"
#include "metal/layout.h"
#include "metal/report.h"
#include "metal/serial.h"

// Shared with entry.S.
extern "C" {
extern perdure::u64 metal_gdt[];
extern const std::byte metal_gates[];
// By vector: it came. Written by the gate, which may interrupt any instruction.
perdure::u8 metal_pending[perdure::metal::kVectors];
perdure::u64 metal_end_of_interrupt;
}

namespace perdure::metal {

namespace {

constexpr u64 kTaskPriority = 0x80, kEndOfInterrupt = 0xB0, kSpurious = 0xF0, kRequest = 0x200, kCommand = 0x300,
              kLint0 = 0x350;
constexpr u32 kApicOn = 0x100, kMasked = 0x10000, kSelf = 0x40000;
constexpr u32 kSpuriousVector = 0xFF;
constexpr u64 kGateBytes = 16;
constexpr u16 kCodeSelector = 0x08, kTaskSelector = 0x18;
constexpr u32 kExceptions = 32;

struct Gate {
  u16 offset_low;
  u16 selector;
  u8 stack;
  u8 type;
  u16 offset_middle;
  u32 offset_high;
  u32 reserved;
};
static_assert(sizeof(Gate) == 16);

struct [[gnu::packed]] TaskState {
  u32 reserved = 0;
  u64 stacks[3] = {};
  u64 reserved1 = 0;
  u64 exception_stacks[7] = {};
  u64 reserved2 = 0;
  u16 reserved3 = 0;
  u16 io_map = sizeof(TaskState);
};
static_assert(sizeof(TaskState) == 104);

struct [[gnu::packed]] TablePointer {
  u16 limit;
  u64 base;
};

// As the gate and the processor push it.
struct ExceptionFrame {
  u64 vector, error, rip, cs, flags, rsp, ss;
};

constinit Gate gates[kVectors] = {};
constinit TaskState task_state;
alignas(16) constinit std::byte exception_stack[8192] = {};

volatile u32* apic(u64 offset) {
  return reinterpret_cast<volatile u32*>(kDirectMap + kApic + offset);  // NOLINT(performance-no-int-to-ptr)
}

void load_tables() {
  for (u32 v = 0; v < kVectors; ++v) {
    const u64 at = reinterpret_cast<u64>(metal_gates) + v * kGateBytes;
    // Exceptions have a stack of their own: the other one may be what is wrong.
    gates[v] = {.offset_low = static_cast<u16>(at),
                .selector = kCodeSelector,
                .stack = static_cast<u8>(v < kExceptions ? 1 : 0),
                .type = 0x8E,
                .offset_middle = static_cast<u16>(at >> 16),
                .offset_high = static_cast<u32>(at >> 32),
                .reserved = 0};
  }
  task_state.exception_stacks[0] = reinterpret_cast<u64>(exception_stack + sizeof exception_stack);
  const u64 base = reinterpret_cast<u64>(&task_state);
  u64* const entry = metal_gdt + kTaskSelector / 8;
  entry[0] = (sizeof task_state - 1) | (base & 0xFF'FFFF) << 16 | u64{0x89} << 40 | (base >> 24 & 0xFF) << 56;
  entry[1] = base >> 32;
  const TablePointer idt{sizeof gates - 1, reinterpret_cast<u64>(gates)};
  __asm__ volatile("lidt %0" : : "m"(idt) : "memory");
  __asm__ volatile("ltr %0" : : "r"(kTaskSelector) : "memory");
}

}  // namespace

void cpu_init() {
  load_tables();
  // The old interrupt controllers are nobody's; firmware left the timer on.
  out8(0x21, 0xFF);
  out8(0xA1, 0xFF);
  metal_end_of_interrupt = kDirectMap + kApic + kEndOfInterrupt;
  *apic(kLint0) = kMasked;
  *apic(kTaskPriority) = 0;
  *apic(kSpurious) = kApicOn | kSpuriousVector;
}

void send_to_self(u32 vector) {
  *apic(kCommand) = kSelf | vector;
}

bool take_pending(u32 vector) {
  return __atomic_exchange_n(&metal_pending[vector], u8{0}, __ATOMIC_ACQ_REL) != 0;
}

bool requested(u32 vector) {
  return (*apic(kRequest + vector / 32 * 0x10) >> vector % 32 & 1) != 0;
}

extern "C" [[noreturn]] void metal_exception(const ExceptionFrame* frame);

extern "C" void metal_exception(const ExceptionFrame* frame) {
  log(LogLevel::Error,
      (Line() << "exception " << frame->vector << " at RIP " << Hex{frame->rip} << ", error code " << Hex{frame->error}
              << ", CR2 " << Hex{read_cr2()} << ", RSP " << Hex{frame->rsp} << ", RFLAGS " << Hex{frame->flags})
          .view());
  end_run(Verdict::Broken);
}

}  // namespace perdure::metal
