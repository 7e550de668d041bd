#include "scenarios/selftest.h"

namespace perdure::scenarios {

using client::Iommufd;
using client::LiveUpdate;
using client::Mapping;
using client::Memfd;
using client::Session;
using client::VfioDevice;

namespace {
constexpr std::string_view kFirstSession = "selftest-1";
constexpr std::string_view kSession = "selftest-2";
// What the memory holds: a word a page that tells the page.
constexpr u64 kPattern = 0x5e1f'7e57'0000'0000;
}  // namespace

// --- stage one ----------------------------------------------------------------------------------------------------

Result<void> Selftest::before(std::string_view next) {
  TRY(set_up());
  {
    const LiveUpdate lu = TRY(must("open /dev/liveupdate", LiveUpdate::open(context_.sys)));
    session_ = TRY(must("create a session", lu.create_session(kFirstSession)));
  }
  // Kept: the order of preservation. Nothing may be preserved before what it rests on.
  TRY(must_not("preserve the device first", session_.preserve(device_.number(), kDeviceToken), Errno::Enoent));
  TRY(must_not("preserve the iommufd before its memory", session_.preserve(iommufd_.number(), kIommufdToken),
               Errno::Enoent));
  TRY(preserve_in_order());
  TRY(refusals_while_preserved());

  // Kept: closing the session unpreserves everything. It can change again, and be preserved again.
  session_ = {};
  TRY(must("unmap after the session was closed", iommufd_.unmap(ioas_, kIova, kBytes)));
  TRY(must("map it again", iommufd_.map_file(ioas_, memory_.number(), 0, kBytes, kIova)));
  {
    const LiveUpdate lu = TRY(must("open /dev/liveupdate again", LiveUpdate::open(context_.sys)));
    session_ = TRY(must("create a new session", lu.create_session(kSession)));
  }
  TRY(preserve_in_order());
  return resized_memory_refuses_the_jump(next);
}

Result<void> Selftest::set_up() {
  memory_ = TRY(must("create sealed memory", Memfd::create(context_.sys, "selftest", kBytes)));
  {
    const Mapping all = TRY(must("map it here", memory_.map(0, kBytes)));
    for (u64 page = 0; page < kBytes; page += kPageSize) *all.at<u64>(page) = kPattern + page;
  }
  iommufd_ = TRY(must("open /dev/iommu", Iommufd::open(context_.sys)));
  device_ = TRY(must("open the device", VfioDevice::open(context_.sys, device_path_)));
  device_id_ = TRY(must("bind it", device_.bind(iommufd_)));
  ioas_ = TRY(must("allocate an address space", iommufd_.ioas_alloc()));
  hwpt_ = TRY(must("allocate a page table", iommufd_.hwpt_alloc(device_id_, ioas_)));
  TRY(must("attach the device", device_.attach(hwpt_)));
  TRY(must("map the memory at a fixed address", iommufd_.map_file(ioas_, memory_.number(), 0, kBytes, kIova)));
  return must("mark the page table", iommufd_.mark_preserve(hwpt_, kHwptToken));
}

Result<void> Selftest::preserve_in_order() {
  TRY(must("preserve the memory", session_.preserve(memory_.number(), kMemfdToken)));
  TRY(must("preserve the iommufd", session_.preserve(iommufd_.number(), kIommufdToken)));
  return must("preserve the device", session_.preserve(device_.number(), kDeviceToken));
}

// Of the older test: what is preserved does not change.
Result<void> Selftest::refusals_while_preserved() {
  TRY(must_not("unmap what is preserved", iommufd_.unmap(ioas_, kIova, kBytes), Errno::Ebusy));
  TRY(must_not("map beside what is preserved", iommufd_.map_file(ioas_, memory_.number(), 0, kBytes, kIova + kBytes),
               Errno::Ebusy));
  TRY(must_not("destroy a preserved page table", iommufd_.destroy(hwpt_), Errno::Ebusy));
  TRY(must_not("detach a preserved device", device_.detach(), Errno::Ebusy));
  TRY(must_not("preserve it twice", session_.preserve(device_.number(), kLooseToken), Errno::Ebusy));
  // Sealed against it when it was mapped, or it could not have been preserved.
  TRY(must_not("truncate the memory", context_.sys.ftruncate(memory_.number(), kBytes / 2), Errno::Eperm));
  return must_not("grow the memory", context_.sys.ftruncate(memory_.number(), 2 * kBytes), Errno::Eperm);
}

// Memory that is not sealed and that no device reaches. Where its size belongs to the host, a change cannot be refused:
// it is found by the freeze, and there is no jump until the size is what it was (docs/limits.md).
Result<void> Selftest::resized_memory_refuses_the_jump(std::string_view next) {
  const Memfd loose = TRY(must("create memory without seals", Memfd::create(context_.sys, "loose", kBytes, 0)));
  TRY(must("preserve it", session_.preserve(loose.number(), kLooseToken)));
  const Result<void> cut = context_.sys.ftruncate(loose.number(), kBytes / 2);
  if (!cut) return must_not("truncate preserved memory", cut, Errno::Ebusy);
  TRY(must("load the next kernel", context_.sys.kexec_load(next)));
  TRY(must_not("jump with memory of another size", context_.sys.kexec(), Errno::Ebusy));
  return must("give it back its size", context_.sys.ftruncate(loose.number(), kBytes));
}

// --- stage two ----------------------------------------------------------------------------------------------------

Result<void> Selftest::after() {
  {
    const LiveUpdate lu = TRY(must("open /dev/liveupdate", LiveUpdate::open(context_.sys)));
    TRY(must_not("retrieve the session that was closed", lu.retrieve_session(kFirstSession), Errno::Enoent));
    session_ = TRY(must("retrieve the session", lu.retrieve_session(kSession)));
    TRY(must_not("retrieve it twice", lu.retrieve_session(kSession), Errno::Einval));
  }
  // Kept: the device comes back, and nobody but the iommufd it was preserved with gets it.
  device_ = VfioDevice(TRY(must("retrieve the device", session_.retrieve(kDeviceToken))));
  TRY(must_not("open the device beside it", VfioDevice::open(context_.sys, device_path_), Errno::Ebusy));
  {
    const Iommufd stranger = TRY(must("open /dev/iommu", Iommufd::open(context_.sys)));
    TRY(must_not("bind the device to a new iommufd", device_.bind(stranger), Errno::Eperm));
    TRY(must_not("reclaim the page table there", stranger.hwpt_restore(kHwptToken), Errno::Enotty));
  }
  // Kept: finish fails while the device is in nobody's hands.
  TRY(must_not("finish before anything was taken over", session_.finish(), Errno::Ebusy));

  // Phase 1's test expects retrieving the iommufd to fail. It succeeds here; instead, of the older test: finish fails
  // until the page table was taken over.
  memory_ = Memfd(TRY(must("retrieve the memory", session_.retrieve(kMemfdToken))));
  TRY(check_memory());
  iommufd_ = Iommufd(TRY(must("retrieve the iommufd", session_.retrieve(kIommufdToken))));
  TRY(must_not("finish before the device was bound", session_.finish(), Errno::Ebusy));
  device_id_ = TRY(must("bind the device to its iommufd", device_.bind(iommufd_)));
  TRY(must_not("finish before the page table was reclaimed", session_.finish(), Errno::Ebusy));
  TRY(must_not("reclaim one that is not there", iommufd_.hwpt_restore(kHwptToken + 1), Errno::Enoent));
  const u32 restored = TRY(must("reclaim the page table", iommufd_.hwpt_restore(kHwptToken)));
  TRY(must_not("reclaim it twice", iommufd_.hwpt_restore(kHwptToken), Errno::Enoent));
  TRY(must_not("destroy it while the device runs on it", iommufd_.destroy(restored), Errno::Ebusy));

  // Replaced in place; a table with other results is refused.
  ioas_ = TRY(must("allocate an address space", iommufd_.ioas_alloc()));
  hwpt_ = TRY(must("allocate a page table", iommufd_.hwpt_alloc(device_id_, ioas_)));
  TRY(must_not("replace by an empty table", device_.attach(hwpt_), Errno::Einval));
  TRY(must("map the same memory at the same address", iommufd_.map_file(ioas_, memory_.number(), 0, kBytes, kIova)));
  TRY(must("replace the page table", device_.attach(hwpt_)));
  TRY(must("destroy the former one", iommufd_.destroy(restored)));

  // The memory that nobody asked for does not hold up finish.
  TRY(must("finish", session_.finish()));
  session_ = {};
  {
    const LiveUpdate lu = TRY(must("open /dev/liveupdate at the end", LiveUpdate::open(context_.sys)));
    TRY(must_not("retrieve a finished session", lu.retrieve_session(kSession), Errno::Enoent));
  }
  TRY(must("unmap, now that it is this kernel's", iommufd_.unmap(ioas_, kIova, kBytes)));
  return check_memory();
}

void Selftest::forget() {
  for (client::Fd* fd : {&session_.fd(), &device_.fd(), &iommufd_.fd(), &memory_.fd()}) fd->release();
}

Result<void> Selftest::check_memory() {
  const Mapping all = TRY(must("map the memory here", memory_.map(0, kBytes)));
  for (u64 page = 0; page < kBytes; page += kPageSize) {
    if (*all.at<u64>(page) == kPattern + page) continue;
    context_.witness.problem("contents of the memory", Errno::Eio);
    return fail(Errno::Eproto);
  }
  return {};
}

}  // namespace perdure::scenarios
