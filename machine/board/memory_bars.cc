#include "machine/board/memory_bars.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

namespace perdure::board {
namespace {

u64 size_of(int file) {
  struct stat found = {};
  return fstat(file, &found) == 0 ? static_cast<u64>(found.st_size) : 0;
}

// What is beyond the end of the file, or a hole in it, reads as zeros.
void read_file(int file, u64 offset, std::span<std::byte> to) {
  std::ranges::fill(to, std::byte{0});
  for (usize done = 0; done < to.size();) {
    const ssize_t n = pread(file, to.data() + done, to.size() - done, static_cast<off_t>(offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return;
    done += static_cast<usize>(n);
  }
}

bool write_file(int file, u64 offset, std::span<const std::byte> from) {
  for (usize done = 0; done < from.size();) {
    const ssize_t n = pwrite(file, from.data() + done, from.size() - done, static_cast<off_t>(offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    done += static_cast<usize>(n);
  }
  return true;
}

}  // namespace

MemoryBars::~MemoryBars() {
  for (const Bar& bar : bars_) {
    if (bar.file >= 0) close(bar.file);
  }
}

u64 MemoryBars::read(unsigned bar, u64 offset, unsigned width) const {
  const Bar& b = bars_[bar];
  u64 value = 0;
  if (in_file(b)) {
    read_file(b.file, b.offset + offset, std::as_writable_bytes(std::span(&value, 1)).first(width));
  } else {
    std::memcpy(&value, b.bytes.data() + offset, width);
  }
  return value;
}

void MemoryBars::write(unsigned bar, u64 offset, unsigned width, u64 value) {
  Bar& b = bars_[bar];
  const auto bytes = std::as_bytes(std::span(&value, 1)).first(width);
  if (in_file(b)) {
    write_file(b.file, b.offset + offset, bytes);
  } else {
    std::ranges::copy(bytes, b.bytes.begin() + static_cast<std::ptrdiff_t>(offset));
  }
}

// The file reaches to the end of the BAR, and holds these bytes there. The end of a file that a program cut is put
// right by it, too.
Result<void> MemoryBars::put_in_file(const Bar& bar, std::span<const std::byte> bytes) {
  const u64 end = bar.offset + bytes.size();
  if (size_of(bar.file) < end && ftruncate(bar.file, static_cast<off_t>(end)) != 0) return fail(Errno::Eio);
  if (!write_file(bar.file, bar.offset, bytes)) return fail(Errno::Enospc);
  return {};
}

Result<void> MemoryBars::move(unsigned bar, int file, u64 offset) {
  Bar& b = bars_[bar];
  Bar next;
  next.offset = offset;
  next.bytes = contents(bar);
  next.file = fcntl(file, F_DUPFD_CLOEXEC, 0);
  if (next.file < 0) return fail(Errno::Emfile);
  struct stat before = {};
  struct stat after = {};
  const bool same = b.file >= 0 && b.offset == offset && fstat(b.file, &before) == 0 && fstat(next.file, &after) == 0 &&
                    before.st_ino == after.st_ino && before.st_dev == after.st_dev;
  // Where they are already: what programs store meanwhile must not be undone.
  const Result<void> put = same || !on_ ? Result<void>() : put_in_file(next, next.bytes);
  if (!put) {
    close(next.file);
    return put;
  }
  std::swap(b, next);
  if (next.file >= 0) close(next.file);
  return {};
}

void MemoryBars::set_on(bool on) {
  if (on == on_) return;
  // Several may be in one file: all are read before it is cut, and it is as long as the last one needs.
  for (unsigned i = 0; !on && i < bars_.size(); ++i) {
    if (has(i)) bars_[i].bytes = contents(i);
  }
  on_ = on;
  for (const Bar& bar : bars_) {
    if (bar.file < 0) continue;
    if (on) {
      static_cast<void>(put_in_file(bar, bar.bytes));  // else the program's accesses go on to fault
    } else if (size_of(bar.file) > bar.offset) {
      static_cast<void>(ftruncate(bar.file, static_cast<off_t>(bar.offset)));
    }
  }
}

void MemoryBars::clear() {
  for (unsigned i = 0; i < bars_.size(); ++i) {
    if (has(i)) set_contents(i, std::vector<std::byte>(bars_[i].bytes.size()));
  }
}

std::vector<std::byte> MemoryBars::contents(unsigned bar) const {
  const Bar& b = bars_[bar];
  if (!in_file(b)) return b.bytes;
  std::vector<std::byte> bytes(b.bytes.size());
  read_file(b.file, b.offset, bytes);
  return bytes;
}

void MemoryBars::set_contents(unsigned bar, std::span<const std::byte> bytes) {
  Bar& b = bars_[bar];
  std::ranges::copy(bytes.first(std::min(bytes.size(), b.bytes.size())), b.bytes.begin());
  if (in_file(b)) static_cast<void>(put_in_file(b, b.bytes));
}

}  // namespace perdure::board
