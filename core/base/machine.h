// What the core needs of the machine under it: memory, registers, interrupts, a clock, a log, and the jump
// into the next kernel. One implementation per machine: in process with the board, a kernel process
// beside a board process, bare metal.
#pragma once
#include <span>
#include <string_view>

#include "core/base/ref.h"
#include "core/base/result.h"
#include "core/base/types.h"

namespace perdure {

namespace abi {
struct BootInfo;
}

enum class Width : u8 { W8 = 1, W16 = 2, W32 = 4, W64 = 8 };
enum class LogLevel : u8 { Debug, Info, Warn, Error };

// Where a device's message-signalled interrupt goes.
struct MsiTarget {
  u64 address = 0;
  u32 data = 0;
  bool operator==(const MsiTarget&) const = default;
};

// The interrupt pin of a function, 1 to 4, by which its wires lead somewhere.
struct InterruptLine {
  u16 segment = 0;
  u16 bdf = 0;
  u8 pin = 0;
  bool operator==(const InterruptLine&) const = default;
};

class IrqSink {
 public:
  // May run on any thread, with no core lock held; must not block.
  virtual void raise() = 0;

 protected:
  ~IrqSink() = default;
};

// Tests' hold on time and on failure. Null on machines where hardware runs by itself.
class StepHook {
 public:
  // After a store that hardware may look at: devices advance here.
  virtual void stored(Phys at) = 0;
  // Before an allocation of heap or frames; false makes it fail.
  virtual bool may_allocate() = 0;

 protected:
  ~StepHook() = default;
};

// Memory with an owner beyond this kernel: a program's memfd on the hosted machine. It becomes part of the
// physical address space as banks.
class HostMemory : public RefCounted {
 public:
  virtual u64 id() const = 0;     // equal for the same underlying object
  virtual u64 size() const = 0;   // bytes, as of now
  virtual u32 seals() const = 0;  // F_SEAL_* as of now
  virtual Result<void> add_seals(u32 seals) = 0;
  virtual Result<void> resize(u64 bytes) = 0;
  virtual u64 position() const = 0;  // file offset
  virtual void set_position(u64 bytes) = 0;
  // Memory of ordinary pages that lives in descriptors and mappings alone: what can be preserved (kho-luo §4.1). Not
  // so: a file that has a name in its file system, huge pages.
  virtual bool nameless() const { return true; }
  // Memory that cannot be mapped here, like a program's private pages on the hosted machine: devices reach its banks,
  // but nothing stands at their place in the direct map. read() and write() are the way to it (Efault: it is gone).
  virtual bool remote() const { return false; }
  virtual Result<void> read(u64, std::span<std::byte>) { return fail(Errno::Eopnotsupp); }
  virtual Result<void> write(u64, std::span<const std::byte>) { return fail(Errno::Eopnotsupp); }
};

// A stretch of host memory at a place in the physical address space. `base` and `length` are multiples of
// the page size; length may reach beyond the end of the host memory.
struct Bank {
  Phys base;
  u64 length = 0;
  u64 offset = 0;   // of `base` in the host memory
  u64 host_id = 0;  // HostMemory::id()
};

// An event that a program waits for: an eventfd on the hosted machine.
class HostEvent : public RefCounted {
 public:
  virtual u64 id() const = 0;
  virtual void signal(u64 count) = 0;
  // What others signalled since it was last asked, which is taken away. Does not block.
  virtual u64 take() { return 0; }
};

// A kernel that can be jumped to, pinned at the time of loading.
class KernelImage : public RefCounted {
 public:
  virtual std::string_view name() const = 0;
  // The descriptor of the ELF note "Perdure", abi::KernelNote; empty if there is none.
  virtual std::string_view note() const = 0;
};

class Machine {
 public:
  std::byte* direct_map = nullptr;  // where physical address 0 is mapped
  u64 window = 0;                   // bytes of physical address space behind direct_map
  StepHook* steps = nullptr;

  template <class T = std::byte>
  T* virt(Phys p) const {
    return reinterpret_cast<T*>(direct_map + p.value);
  }
  Phys phys(const void* p) const { return Phys(static_cast<u64>(static_cast<const std::byte*>(p) - direct_map)); }
  // True when [p, p + length) lies in the window; every address that comes from outside is checked with it
  // before virt().
  bool in_window(Phys p, u64 length) const { return length <= window && p.value <= window - length; }

  // This kernel's boot information; valid and unchanged for the kernel's life.
  virtual const abi::BootInfo& boot() = 0;

  // Register access at its own width. A register that does not answer reads as all ones.
  virtual u64 mmio_read(Phys at, Width width) = 0;
  virtual void mmio_write(Phys at, Width width, u64 value) = 0;

  // Monotonic, and runs on across the jump.
  virtual u64 now_ns() = 0;
  // Lets other parties run while the caller polls hardware.
  virtual void relax() = 0;
  virtual void log(LogLevel level, std::string_view line) = 0;

  virtual Result<MsiTarget> irq_alloc(IrqSink& sink) = 0;
  virtual void irq_free(MsiTarget target) = 0;
  // What a former kernel was given and its devices still send to: this kernel's now, and given to nobody else. What
  // came since that kernel went and has not been raised yet is raised, once a target. Eexist: taken; Einval: no target
  // of this machine; Eopnotsupp: a machine whose interrupts do not outlive a kernel.
  virtual Result<void> irq_claim(MsiTarget, IrqSink&) { return fail(Errno::Eopnotsupp); }
  // As if a device had sent it; while interrupts are disabled.
  virtual void irq_raise(MsiTarget) {}
  // From the return of irq_disable() on no sink is called. What comes is kept, for this kernel when it enables
  // interrupts again or for the next one. A kernel boots with interrupts disabled; the machine enables them when it is
  // up.
  virtual void irq_disable() {}
  virtual void irq_enable() {}

  // Wired interrupts: level-triggered, and each masks its line until it is unmasked. A machine need not have any.
  virtual bool has_line(const InterruptLine&) { return false; }
  // Connected masked. Enodev: leads nowhere; Ebusy: somebody else has it.
  virtual Result<void> line_connect(const InterruptLine&, IrqSink&) { return fail(Errno::Enodev); }
  // No call into the sink is under way when this returns.
  virtual void line_disconnect(const InterruptLine&) {}
  virtual void line_mask(const InterruptLine&) {}
  // The sink may be called before this returns.
  virtual void line_unmask(const InterruptLine&) {}

  // Makes stores visible to a walker that does not snoop the CPU's caches (CLFLUSH + fence).
  virtual void write_back(const void* at, usize bytes) = 0;

  // Banks: see the class. attach picks the address, aligned to min(1 GiB, power of two >= length).
  virtual Result<Bank> bank_attach(HostMemory& memory, u64 offset, u64 length) = 0;
  virtual void bank_detach(const Bank& bank) = 0;
  // The memory behind a bank of the memory map that this kernel was booted with. Enoent if none is there.
  virtual Result<Ref<HostMemory>> bank_memory(u64 host_id) = 0;
  // New memory of `bytes`, as a retrieved file of no bank needs.
  virtual Result<Ref<HostMemory>> host_memory_create(u64 bytes) = 0;

  // Opens and pins the kernel binary `name`; Enoent, Eacces, Enoexec.
  virtual Result<Ref<KernelImage>> image_open(std::string_view name) = 0;
  // Replaces the running kernel: devices go on, this kernel's threads end. `next`: the boot information, whose
  // `memory_map` and `memory_map_count` say where the machine may put the map and how many entries fit; the machine
  // fills the map, seals the page and leaves it at `at`. Fails with nothing changed. Where control comes back after
  // success (in process), the caller returns at once and touches nothing.
  virtual Result<void> jump(KernelImage& image, const abi::BootInfo& next, Phys at) = 0;

 protected:
  ~Machine() = default;
};

}  // namespace perdure
