#include "machine/process/interrupt_page.h"

#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <bit>
#include <utility>

#include "machine/host/host_files.h"

namespace perdure::process {

namespace {

constexpr u64 kAddress = 0xFEE00000;
constexpr u64 kApicBytes = 4096;
constexpr u64 kProcessors = 16;
constexpr u64 kVectors = 256;
constexpr u64 kWord = 64;

}  // namespace

struct InterruptPage::Page {
  std::atomic<u32> told;
  std::atomic<u64> pending[kProcessors * kVectors / kWord];
  std::atomic<u32> count[kProcessors * kVectors];
};

Result<InterruptPage> InterruptPage::create() {
  host::Descriptor fd(memfd_create("perdure-interrupts", MFD_CLOEXEC));
  if (!fd || ftruncate(fd.get(), static_cast<off_t>(sizeof(Page))) != 0) return fail(host::last_error());
  return open(std::move(fd));
}

Result<InterruptPage> InterruptPage::open(host::Descriptor fd) {
  void* at = mmap(nullptr, sizeof(Page), PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  if (at == MAP_FAILED) return fail(host::last_error());
  return InterruptPage(std::move(fd), static_cast<Page*>(at));
}

InterruptPage::InterruptPage(InterruptPage&& o) noexcept
    : fd_(std::move(o.fd_)), page_(std::exchange(o.page_, nullptr)) {}

InterruptPage::~InterruptPage() {
  if (page_) munmap(page_, sizeof(Page));
}

void InterruptPage::mark(u64 address, u32 data) {
  const u64 apic = address - kAddress;
  if (apic % kApicBytes != 0 || apic / kApicBytes >= kProcessors || data >= kVectors) return;
  const u64 i = apic / kApicBytes * kVectors + data;
  page_->count[i].fetch_add(1);
  page_->pending[i / kWord].fetch_or(u64{1} << i % kWord);
}

bool InterruptPage::post(u64 address, u32 data) {
  mark(address, data);
  return page_->told.exchange(1) == 0;
}

void InterruptPage::take(const std::function<void(u64 address, u32 data)>& message) {
  // First, so that what is posted from here on tells again.
  page_->told.store(0);
  for (u64 word = 0; word < std::size(page_->pending); ++word) {
    for (u64 bits = page_->pending[word].exchange(0); bits != 0; bits &= bits - 1) {
      const u64 i = word * kWord + static_cast<u64>(std::countr_zero(bits));
      for (u32 n = page_->count[i].exchange(0); n > 0; --n) {
        message(kAddress + i / kVectors * kApicBytes, static_cast<u32>(i % kVectors));
      }
    }
  }
}

}  // namespace perdure::process
