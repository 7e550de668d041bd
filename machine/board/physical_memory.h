// The physical address space: a reserved stretch of virtual addresses in which the kernel's RAM and banks of host
// memory stand at window base + physical address. Everything between them is not accessible.
//
// Layout: RAM from 0 (its first MiB is firmware's), a hole for registers below 4 GiB, RAM's remainder from 4 GiB, banks
// above it, foreign memory from three quarters of the window, and 64-bit BARs in its top sixteenth.
#pragma once
#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "core/base/function_ref.h"
#include "core/base/machine.h"
#include "core/base/result.h"
#include "machine/board/foreign_memory.h"
#include "machine/board/iommu/phys_memory.h"
#include "machine/board/shared_lock.h"

namespace perdure::board {

struct PhysRange {
  u64 base = 0;
  u64 length = 0;
  constexpr u64 end() const { return base + length; }
  constexpr bool operator==(const PhysRange&) const = default;
};

struct MemoryRegion {
  enum class Type : u8 { Ram, Reserved, Bank };
  u64 base = 0;
  u64 length = 0;
  Type type = Type::Ram;
  u64 host_id = 0;  // banks
  u64 host_offset = 0;
};

// Identity of the file behind a descriptor, from st_dev and st_ino. Eoverflow for numbers too large to be told apart in
// 64 bits (24 bits of device, 40 of inode); Ebadf.
Result<u64> host_file_id(int fd);

class PhysicalMemory final : public PhysMemory {
 public:
  static constexpr u64 kFirmware = u64{1} << 20;  // reserved, from 0
  static constexpr u64 kHoleBase = u64{2} << 30;  // registers
  static constexpr u64 kHoleEnd = u64{4} << 30;

  // Throws std::runtime_error when the host has no room or RAM does not fit the window.
  // `reserved`: pages of RAM that are firmware's, too.
  PhysicalMemory(unsigned window_log2, u64 ram_bytes, std::vector<PhysRange> reserved = {});
  ~PhysicalMemory();
  PhysicalMemory(const PhysicalMemory&) = delete;
  PhysicalMemory& operator=(const PhysicalMemory&) = delete;

  std::byte* base() const { return window_; }
  u64 window() const { return u64{1} << window_log2_; }
  unsigned window_log2() const { return window_log2_; }
  u64 ram_bytes() const { return ram_bytes_; }
  int ram_fd() const { return ram_fd_; }
  // Stretches of RAM, in order; offset in ram_fd() grows without gaps.
  std::vector<PhysRange> ram() const;
  // What firmware keeps of it, in order.
  const std::vector<PhysRange>& reserved() const { return reserved_; }
  // Where 64-bit BARs live.
  PhysRange bar_window() const { return {window() - window() / 16, window() / 16}; }

  // --- banks ---------------------------------------------------------------------------------------------------------
  // Maps [offset, offset + length) of the file as a bank, aligned to min(1 GiB, power of two >= length); `at` asks for
  // an address. The board keeps a descriptor of its own. The range may reach beyond the end of the file. Einval:
  // unaligned or empty; Eexist: part of the range is a bank already; Enospc: no room; Eacces: not writable; Ebadf;
  // Enomem.
  Result<Bank> attach(int fd, u64 offset, u64 length, std::optional<u64> at = std::nullopt);
  Result<void> detach(u64 base);  // of foreign memory, too. Enoent
  std::vector<Bank> banks() const;
  std::optional<Bank> bank_at(u64 phys) const;
  std::optional<Bank> bank_of(u64 host_id, u64 offset) const;
  // The physical address of a byte of a host file.
  std::optional<u64> phys_of(u64 host_id, u64 offset) const;
  // The file behind any of its banks: a new descriptor with its own position,
  // the caller's. Enoent.
  Result<int> bank_fd(u64 host_id) const;
  // --- foreign memory ------------------------------------------------------------------------------------------------
  // Gives [0, length) of it an address, aligned as a bank's. It is reached by read() and write() alone: not by words,
  // so it holds no tables, and not through base(). It is not in banks() and map(): it is given up with the kernel.
  // Einval: empty, or no whole pages; Enospc.
  Result<Bank> attach_foreign(std::shared_ptr<ForeignMemory> memory, u64 length, u64 host_id);
  // All of it.
  void detach_foreign();
  usize foreign() const;
  // Accesses to it that failed.
  u64 foreign_faults() const { return foreign_faults_.load(std::memory_order_relaxed); }

  // RAM, what firmware reserved of it, and banks, in order of address.
  std::vector<MemoryRegion> map() const;

  // --- access as hardware does it: atomic words, never a fault of this process ---------------------------------------
  // False, with nothing done, unless the whole range is RAM or bank; or foreign memory, and that is gone.
  bool read(u64 phys, std::span<std::byte> to) const;
  bool write(u64 phys, std::span<const std::byte> from);
  bool backed(u64 phys, u64 length) const;
  bool is_kernel_ram(u64 phys, u64 length) const;

  bool load64(u64 phys, u64& value) override;
  bool store32(u64 phys, u32 value) override;
  bool compare_exchange64(u64 phys, u64& expected, u64 desired) override;
  bool is_ram(u64 phys, u64 bytes) const override { return backed(phys, bytes); }
  bool may_use(u64 phys, TableUse use) override;
  // Judges frames for units' walks; none: all may be used. Not to be changed while devices run.
  void set_frame_judge(std::function<bool(u64 phys, TableUse use)> judge) { judge_ = std::move(judge); }

  // --- pages that exist ----------------------------------------------------------------------------------------------
  // Stretches that the host has pages for (a superset of what is not zero), in order. The visitor must not attach or
  // detach.
  void each_materialised_ram(FunctionRef<void(PhysRange)> visit) const;
  void each_materialised_bank(FunctionRef<void(const Bank&, PhysRange)> visit) const;
  // Calls visit(phys) for every 64-byte line in the range that begins with this word. The range may be detached
  // meanwhile; the visitor may use this object.
  void find_lines(PhysRange range, u64 word, FunctionRef<void(u64 phys)> visit) const;
  // Overwrites 8-byte words; the range lies in RAM.
  void fill(PhysRange range, u64 word);

  // Accesses to a bank beyond the end of its file (truncated by its program): each gave one page of zeros.
  u64 bus_errors() const;

 private:
  struct Mapped {
    Bank bank;
    int fd = -1;
  };
  struct Foreign {
    u64 length = 0;
    std::shared_ptr<ForeignMemory> memory;
  };
  Result<u64> place_locked(u64 length) const REQUIRES(lock_);
  std::optional<u64> room_for_foreign_locked(u64 from, u64 length) const REQUIRES(lock_);
  // Moves [phys, phys + length) piece by piece; false where it is not all foreign memory, or a piece fails.
  template <class Move>
  bool foreign_locked(u64 phys, u64 length, Move move) const PERDURE_TSA(requires_shared_capability(lock_));
  bool backed_locked(u64 phys, u64 length) const PERDURE_TSA(requires_shared_capability(lock_));
  std::optional<u64> ram_offset(u64 phys) const;

  unsigned window_log2_;
  u64 ram_bytes_;
  std::vector<PhysRange> reserved_;
  u64 foreign_base_ = 0;  // three quarters of the window, or where RAM ends
  std::byte* window_ = nullptr;
  int ram_fd_ = -1;
  unsigned guard_slot_ = 0;
  mutable SharedLock lock_;
  std::map<u64, Mapped> banks_ GUARDED_BY(lock_);               // by base
  std::map<std::pair<u64, u64>, u64> bases_ GUARDED_BY(lock_);  // by file and offset
  std::map<u64, Foreign> foreign_ GUARDED_BY(lock_);            // by base
  u64 next_foreign_ GUARDED_BY(lock_) = 0;                      // where looking for room begins
  mutable std::atomic<u64> foreign_faults_{0};
  std::function<bool(u64, TableUse)> judge_;
};

}  // namespace perdure::board
