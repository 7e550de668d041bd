#include "machine/board/physical_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <string>

#include "core/base/hw.h"
#include "core/base/scope_guard.h"
#include "machine/board/bus_error_guard.h"
#include "machine/board/sparse_file.h"

namespace perdure::board {
namespace {

[[noreturn]] void refuse(const std::string& what) {
  throw std::runtime_error("board: " + what);
}

Errno from_errno(int error) {
  switch (error) {
    case EACCES:
    case EPERM: return Errno::Eacces;
    case ENOMEM: return Errno::Enomem;
    case EBADF: return Errno::Ebadf;
    case EMFILE:
    case ENFILE: return Errno::Emfile;
    default: return Errno::Einval;
  }
}

// A descriptor of the same file with a position of its own: dup() would share the program's, and looking for pages
// moves it. Without /proc a shared one must do.
Result<int> reopen(int fd) {
  const std::string path = "/proc/self/fd/" + std::to_string(fd);
  int own = open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (own < 0 && errno == ENOENT) own = fcntl(fd, F_DUPFD_CLOEXEC, 3);
  if (own < 0) return fail(from_errno(errno));
  return own;
}

// Whole words go as words; what is not aligned goes by bytes.
template <class Copy64, class Copy8>
void by_words(u64 phys, usize length, Copy64 copy64, Copy8 copy8) {
  usize i = 0;
  for (; i < length && ((phys + i) & 7) != 0; ++i) copy8(i);
  for (; i + 8 <= length; i += 8) copy64(i);
  for (; i < length; ++i) copy8(i);
}

}  // namespace

Result<u64> host_file_id(int fd) {
  struct stat st{};
  if (fstat(fd, &st) != 0) return fail(Errno::Ebadf);
  const u64 device = static_cast<u64>(st.st_dev);
  const u64 inode = static_cast<u64>(st.st_ino);
  if (device >= (u64{1} << 24) || inode >= (u64{1} << 40)) return fail(Errno::Eoverflow);
  return device << 40 | inode;
}

PhysicalMemory::PhysicalMemory(unsigned window_log2, u64 ram_bytes, std::vector<PhysRange> firmware)
    : window_log2_(window_log2), ram_bytes_(ram_bytes), reserved_(std::move(firmware)) {
  if (window_log2 < 33 || window_log2 > 46) {
    refuse("window of 2^" + std::to_string(window_log2) + " bytes; choose 33 to 46");
  }
  if (ram_bytes < (u64{4} << 20) || ram_bytes % kHugePageSize != 0) {
    refuse("RAM of " + std::to_string(ram_bytes) + " bytes; choose a multiple of 2 MiB, 4 MiB at least");
  }
  if (ram().back().end() > bar_window().base) refuse("RAM does not fit the window; choose a larger window_log2");
  foreign_base_ = std::max(window() / 4 * 3, align_up(ram().back().end(), kGiantPageSize));
  reserved_.push_back({0, kFirmware});
  std::sort(reserved_.begin(), reserved_.end(), [](const PhysRange& a, const PhysRange& b) { return a.base < b.base; });
  for (usize i = 0; i < reserved_.size(); ++i) {
    const PhysRange& r = reserved_[i];
    if ((r.base | r.length) % kPageSize != 0 || r.length == 0 || !is_kernel_ram(r.base, r.length)) {
      refuse("reserved memory must be whole pages of RAM");
    }
    if (i > 0 && reserved_[i - 1].end() > r.base) {
      refuse("reserved memory overlaps other reserved memory or firmware's first MiB");
    }
  }

  // One GiB more, so that the window itself is aligned like the largest bank.
  const u64 reserved = window() + kGiantPageSize;
  void* at = mmap(nullptr, reserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (at == MAP_FAILED) refuse("cannot reserve the physical address window; choose a smaller window_log2");
  const u64 start = reinterpret_cast<u64>(at);
  const u64 aligned = align_up(start, kGiantPageSize);
  if (aligned > start) munmap(at, aligned - start);
  munmap(reinterpret_cast<void*>(aligned + window()), start + reserved - aligned - window());
  window_ = reinterpret_cast<std::byte*>(aligned);
  ScopeGuard undo_window([this] { munmap(window_, window()); });

  ram_fd_ = memfd_create("perdure-ram", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (ram_fd_ < 0) refuse("memfd_create for RAM: " + std::string(std::strerror(errno)));
  ScopeGuard undo_ram([this] { close(ram_fd_); });
  if (ftruncate(ram_fd_, static_cast<off_t>(ram_bytes)) != 0 ||
      fcntl(ram_fd_, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
    refuse("cannot size the RAM memfd: " + std::string(std::strerror(errno)));
  }
  u64 offset = 0;
  for (const PhysRange& r : ram()) {
    if (mmap(window_ + r.base, r.length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED | MAP_NORESERVE, ram_fd_,
             static_cast<off_t>(offset)) == MAP_FAILED) {
      refuse("cannot map RAM: " + std::string(std::strerror(errno)));
    }
    offset += r.length;
  }
  guard_slot_ = BusErrorGuard::add(window_, window());
  undo_ram.dismiss();
  undo_window.dismiss();
}

PhysicalMemory::~PhysicalMemory() {
  BusErrorGuard::remove(guard_slot_);
  munmap(window_, window());
  close(ram_fd_);
  for (auto& [base, mapped] : banks_) close(mapped.fd);
}

std::vector<PhysRange> PhysicalMemory::ram() const {
  if (ram_bytes_ <= kHoleBase) return {{0, ram_bytes_}};
  return {{0, kHoleBase}, {kHoleEnd, ram_bytes_ - kHoleBase}};
}

std::optional<u64> PhysicalMemory::ram_offset(u64 phys) const {
  if (phys < std::min(ram_bytes_, kHoleBase)) return phys;
  if (ram_bytes_ > kHoleBase && phys >= kHoleEnd && phys - kHoleEnd < ram_bytes_ - kHoleBase) {
    return kHoleBase + (phys - kHoleEnd);
  }
  return std::nullopt;
}

bool PhysicalMemory::is_kernel_ram(u64 phys, u64 length) const {
  if (length == 0) return ram_offset(phys).has_value();
  if (range_overflows(phys, length)) return false;
  const std::optional<u64> first = ram_offset(phys);
  const std::optional<u64> last = ram_offset(phys + (length - 1));
  return first && last && *last - *first == length - 1;
}

// --- banks -----------------------------------------------------------------------------------------------------------

Result<u64> PhysicalMemory::place_locked(u64 length) const {
  const u64 alignment = std::min(kGiantPageSize, std::bit_ceil(length));
  const u64 limit = foreign_base_;
  // Never in the low 4 GiB: addresses there look like device memory to people and to 32-bit devices.
  u64 at = align_up(std::max(ram().back().end(), kHoleEnd), kGiantPageSize);
  for (const auto& [base, mapped] : banks_) {
    const u64 fit = align_up(at, alignment);
    if (fit <= base && base - fit >= length) return fit;
    at = std::max(at, base + mapped.bank.length);
  }
  at = align_up(at, alignment);
  if (at > limit || limit - at < length) return fail(Errno::Enospc);
  return at;
}

Result<Bank> PhysicalMemory::attach(int fd, u64 offset, u64 length, std::optional<u64> at) {
  if (length == 0 || offset % kPageSize != 0 || length % kPageSize != 0 || range_overflows(offset, length) ||
      offset + length > (u64{1} << 62) || length > window()) {
    return fail(Errno::Einval);
  }
  const u64 id = TRY(host_file_id(fd));
  if ((fcntl(fd, F_GETFL) & O_ACCMODE) != O_RDWR) return fail(Errno::Eacces);
  const int own = TRY(reopen(fd));
  ScopeGuard undo_fd([own] { close(own); });

  const WriteGuard guard(lock_);
  for (auto it = bases_.lower_bound({id, 0}); it != bases_.end() && it->first.first == id; ++it) {
    const Bank& b = banks_.at(it->second).bank;
    if (ranges_overlap(b.offset, b.length, offset, length)) return fail(Errno::Eexist);
  }
  u64 base = 0;
  if (at) {
    if (*at % kPageSize != 0 || *at < kHoleEnd || range_overflows(*at, length) || *at + length > foreign_base_) {
      return fail(Errno::Einval);
    }
    if (ram().size() > 1 && *at < ram().back().end()) return fail(Errno::Eexist);
    for (const auto& [other, mapped] : banks_) {
      if (ranges_overlap(other, mapped.bank.length, *at, length)) return fail(Errno::Eexist);
    }
    base = *at;
  } else {
    base = TRY(place_locked(length));
  }
  if (mmap(window_ + base, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED | MAP_NORESERVE, own,
           static_cast<off_t>(offset)) == MAP_FAILED) {
    return fail(from_errno(errno));
  }
  const Bank bank{Phys(base), length, offset, id};
  banks_[base] = {bank, own};
  bases_[{id, offset}] = base;
  undo_fd.dismiss();
  return bank;
}

Result<void> PhysicalMemory::detach(u64 base) {
  const WriteGuard guard(lock_);
  if (foreign_.erase(base) != 0) return {};
  const auto it = banks_.find(base);
  if (it == banks_.end()) return fail(Errno::Enoent);
  if (mmap(window_ + base, it->second.bank.length, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE,
           -1, 0) == MAP_FAILED) {
    return fail(from_errno(errno));
  }
  close(it->second.fd);
  bases_.erase({it->second.bank.host_id, it->second.bank.offset});
  banks_.erase(it);
  return {};
}

// --- foreign memory --------------------------------------------------------------------------------------------------

std::optional<u64> PhysicalMemory::room_for_foreign_locked(u64 from, u64 length) const {
  const u64 alignment = std::min(kGiantPageSize, std::bit_ceil(length));
  u64 at = align_up(from, alignment);
  auto next = foreign_.upper_bound(at);
  if (next != foreign_.begin()) {
    const auto& [base, before] = *std::prev(next);
    at = align_up(std::max(at, base + before.length), alignment);
  }
  for (; next != foreign_.end() && next->first < at + length; ++next) {
    at = align_up(next->first + next->second.length, alignment);
  }
  const u64 limit = bar_window().base;
  if (at > limit || limit - at < length) return std::nullopt;
  return at;
}

Result<Bank> PhysicalMemory::attach_foreign(std::shared_ptr<ForeignMemory> memory, u64 length, u64 host_id) {
  if (length == 0 || length % kPageSize != 0 || length > window()) return fail(Errno::Einval);
  const WriteGuard guard(lock_);
  // There may be many, small ones: looking goes on where the last one was placed, and once round.
  std::optional<u64> base = room_for_foreign_locked(std::max(next_foreign_, foreign_base_), length);
  if (!base) base = room_for_foreign_locked(foreign_base_, length);
  if (!base) return fail(Errno::Enospc);
  foreign_[*base] = {length, std::move(memory)};
  next_foreign_ = *base + length;
  return Bank{Phys(*base), length, 0, host_id};
}

void PhysicalMemory::detach_foreign() {
  const WriteGuard guard(lock_);
  foreign_.clear();
}

usize PhysicalMemory::foreign() const {
  const ReadGuard guard(lock_);
  return foreign_.size();
}

template <class Move>
bool PhysicalMemory::foreign_locked(u64 phys, u64 length, Move move) const {
  if (phys < foreign_base_ || length == 0 || range_overflows(phys, length)) return false;
  for (u64 done = 0; done < length;) {
    auto it = foreign_.upper_bound(phys + done);
    if (it == foreign_.begin()) return false;
    const auto& [base, foreign] = *--it;
    const u64 into = phys + done - base;
    if (into >= foreign.length) return false;
    const u64 piece = std::min(length - done, foreign.length - into);
    if (!move(*foreign.memory, into, done, piece)) {
      foreign_faults_.fetch_add(1, std::memory_order_relaxed);
      return false;
    }
    done += piece;
  }
  return true;
}

std::vector<Bank> PhysicalMemory::banks() const {
  const ReadGuard guard(lock_);
  std::vector<Bank> all;
  all.reserve(banks_.size());
  for (const auto& [base, mapped] : banks_) all.push_back(mapped.bank);
  return all;
}

std::optional<Bank> PhysicalMemory::bank_at(u64 phys) const {
  const ReadGuard guard(lock_);
  auto it = banks_.upper_bound(phys);
  if (it == banks_.begin()) return std::nullopt;
  --it;
  if (phys - it->first >= it->second.bank.length) return std::nullopt;
  return it->second.bank;
}

std::optional<Bank> PhysicalMemory::bank_of(u64 host_id, u64 offset) const {
  const ReadGuard guard(lock_);
  auto it = bases_.upper_bound({host_id, offset});
  if (it == bases_.begin()) return std::nullopt;
  const Bank& b = banks_.at((--it)->second).bank;
  if (b.host_id != host_id || offset - b.offset >= b.length) return std::nullopt;
  return b;
}

std::optional<u64> PhysicalMemory::phys_of(u64 host_id, u64 offset) const {
  const std::optional<Bank> b = bank_of(host_id, offset);
  if (!b) return std::nullopt;
  return b->base.value + (offset - b->offset);
}

Result<int> PhysicalMemory::bank_fd(u64 host_id) const {
  const ReadGuard guard(lock_);
  const auto it = bases_.lower_bound({host_id, 0});
  if (it == bases_.end() || it->first.first != host_id) return fail(Errno::Enoent);
  return reopen(banks_.at(it->second).fd);
}

std::vector<MemoryRegion> PhysicalMemory::map() const {
  std::vector<MemoryRegion> all;
  for (const PhysRange& r : ram()) {
    u64 at = r.base;
    for (const PhysRange& kept : reserved_) {
      if (kept.base < r.base || kept.base >= r.end()) continue;
      if (kept.base > at) all.push_back({at, kept.base - at, MemoryRegion::Type::Ram, 0, 0});
      all.push_back({kept.base, kept.length, MemoryRegion::Type::Reserved, 0, 0});
      at = kept.end();
    }
    if (at < r.end()) all.push_back({at, r.end() - at, MemoryRegion::Type::Ram, 0, 0});
  }
  for (const Bank& b : banks()) {
    all.push_back({b.base.value, b.length, MemoryRegion::Type::Bank, b.host_id, b.offset});
  }
  return all;
}

// --- access ----------------------------------------------------------------------------------------------------------

bool PhysicalMemory::backed_locked(u64 phys, u64 length) const {
  if (length == 0 || range_overflows(phys, length)) return false;
  if (is_kernel_ram(phys, length)) return true;
  // Neighbouring banks may share a range.
  while (true) {
    auto it = banks_.upper_bound(phys);
    if (it == banks_.begin()) return false;
    --it;
    const u64 into = phys - it->first;
    if (into >= it->second.bank.length) return false;
    const u64 rest = it->second.bank.length - into;
    if (length <= rest) return true;
    phys += rest;
    length -= rest;
  }
}

bool PhysicalMemory::backed(u64 phys, u64 length) const {
  if (is_kernel_ram(phys, length)) return length != 0;
  const ReadGuard guard(lock_);
  return backed_locked(phys, length);
}

bool PhysicalMemory::read(u64 phys, std::span<std::byte> to) const {
  const ReadGuard guard(lock_);
  if (!backed_locked(phys, to.size())) {
    return foreign_locked(phys, to.size(), [&](ForeignMemory& memory, u64 into, u64 done, u64 piece) {
      return memory.read(into, to.subspan(done, piece));
    });
  }
  const std::byte* from = window_ + phys;
  by_words(
      phys, to.size(),
      [&](usize i) {
        const u64 word = hw::load(reinterpret_cast<const u64*>(from + i));
        std::memcpy(&to[i], &word, 8);
      },
      [&](usize i) { to[i] = static_cast<std::byte>(hw::load(reinterpret_cast<const u8*>(from + i))); });
  return true;
}

bool PhysicalMemory::write(u64 phys, std::span<const std::byte> from) {
  const ReadGuard guard(lock_);
  if (!backed_locked(phys, from.size())) {
    return foreign_locked(phys, from.size(), [&](ForeignMemory& memory, u64 into, u64 done, u64 piece) {
      return memory.write(into, from.subspan(done, piece));
    });
  }
  std::byte* to = window_ + phys;
  by_words(
      phys, from.size(),
      [&](usize i) {
        u64 word;
        std::memcpy(&word, &from[i], 8);
        hw::store(reinterpret_cast<u64*>(to + i), word);
      },
      [&](usize i) { hw::store(reinterpret_cast<u8*>(to + i), static_cast<u8>(from[i])); });
  return true;
}

bool PhysicalMemory::load64(u64 phys, u64& value) {
  if (phys % 8 != 0) return false;
  const ReadGuard guard(lock_);
  if (!backed_locked(phys, 8)) return false;
  value = hw::load(reinterpret_cast<const u64*>(window_ + phys));
  return true;
}

bool PhysicalMemory::store32(u64 phys, u32 value) {
  if (phys % 4 != 0) return false;
  const ReadGuard guard(lock_);
  if (!backed_locked(phys, 4)) return false;
  hw::store(reinterpret_cast<u32*>(window_ + phys), value);
  return true;
}

bool PhysicalMemory::compare_exchange64(u64 phys, u64& expected, u64 desired) {
  if (phys % 8 != 0) return false;
  const ReadGuard guard(lock_);
  if (!backed_locked(phys, 8)) return false;
  return hw::compare_exchange(reinterpret_cast<u64*>(window_ + phys), expected, desired);
}

bool PhysicalMemory::may_use(u64 phys, TableUse use) {
  return !judge_ || judge_(phys, use);
}

// --- pages that exist ------------------------------------------------------------------------------------------------

void PhysicalMemory::each_materialised_ram(FunctionRef<void(PhysRange)> visit) const {
  u64 offset = 0;
  for (const PhysRange& r : ram()) {
    each_data_stretch(ram_fd_, offset, offset + r.length,
                      [&](u64 begin, u64 end) { visit(PhysRange{r.base + (begin - offset), end - begin}); });
    offset += r.length;
  }
}

void PhysicalMemory::each_materialised_bank(FunctionRef<void(const Bank&, PhysRange)> visit) const {
  const ReadGuard guard(lock_);
  for (const auto& [base, mapped] : banks_) {
    const Bank& b = mapped.bank;
    each_data_stretch(mapped.fd, b.offset, b.offset + b.length,
                      [&](u64 begin, u64 end) { visit(b, PhysRange{base + (begin - b.offset), end - begin}); });
  }
}

void PhysicalMemory::find_lines(PhysRange range, u64 word, FunctionRef<void(u64)> visit) const {
  // In pieces, so that nobody waits long for the lock, and found first, told afterwards.
  constexpr u64 kPiece = u64{1} << 20;
  std::vector<u64> found;
  for (u64 at = align_up(range.base, 64); at < range.end(); at += kPiece) {
    const u64 bytes = std::min(kPiece, range.end() - at);
    found.clear();
    {
      const ReadGuard guard(lock_);
      if (!backed_locked(at, bytes)) continue;
      for (u64 i = 0; i + 64 <= bytes; i += 64) {
        if (hw::load(reinterpret_cast<const u64*>(window_ + at + i)) == word) found.push_back(at + i);
      }
    }
    for (u64 phys : found) visit(phys);
  }
}

void PhysicalMemory::fill(PhysRange range, u64 word) {
  auto* at = reinterpret_cast<u64*>(window_ + range.base);
  for (u64 i = 0; i < range.length / 8; ++i) __atomic_store_n(at + i, word, __ATOMIC_RELAXED);
}

u64 PhysicalMemory::bus_errors() const {
  return BusErrorGuard::count(guard_slot_);
}

}  // namespace perdure::board
