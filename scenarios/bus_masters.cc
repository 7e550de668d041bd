#include "scenarios/bus_masters.h"

#include <cstring>

#include "scenarios/drivers/pattern.h"

namespace perdure::scenarios {

using client::Iommufd;
using client::LiveUpdate;
using client::Mapping;
using client::Memfd;
using client::Session;
using client::VfioDevice;

namespace {

constexpr std::string_view kNames[BusMasters::kMasters] = {"ohci", "edu", "e1000e", "nvme", "ioat"};
constexpr u32 kVendorDevice[BusMasters::kMasters] = {Ohci::kVendorDevice, Edu::kVendorDevice, E1000e::kVendorDevice,
                                                     Nvme::kVendorDevice, Ioat::kVendorDevice};
// Some of them share a domain; what the edu's mappings and attachments go through concerns nobody else.
constexpr u32 kDomainOf[BusMasters::kMasters] = {0, 1, 2, 0, 2};
constexpr u32 kOhci = static_cast<u32>(Master::Ohci), kEdu = static_cast<u32>(Master::Edu),
              kNic = static_cast<u32>(Master::E1000e), kDisk = static_cast<u32>(Master::Nvme),
              kCopier = static_cast<u32>(Master::Ioat);

// Where no machine of less than 2 GiB has memory or registers, so that a request that is not translated goes nowhere.
// Buffers can be mapped in leaves of 2 MiB; everything else is off by a page from what that would take.
constexpr u64 kOhciIova = 0x9000'1000, kNvmeIova = 0x9100'3000, kIoatIova = 0x9200'1000, kEduIova = 0x9400'1000,
              kRingIova = 0x9800'1000, kBuffersIova = 0xA000'0000;
// For changes: page numbers whose low 8 bits are those of no other page of the edu's, since some units flush all pages
// that are alike in these.
constexpr u64 kLeafIova = 0x9C07'7000, kTableIova = 0x9C05'A000;
constexpr bool alike(u64 a, u64 b) {
  return ((a ^ b) >> kPageShift & 0xFF) == 0;
}
static_assert(!alike(kLeafIova, kTableIova) && !alike(kLeafIova, kEduIova) && !alike(kTableIova, kEduIova) &&
              !alike(kLeafIova, kEduIova + kPageSize) && !alike(kTableIova, kEduIova + kPageSize));

constexpr u64 kStateMagic = 0x53524554'53414D42;
constexpr u64 kPoison = 0x5550'4152'4553'5550;

// "bus-masters-7", NUL-terminated in `text`.
std::string_view session_name(u32 hop, char (&text)[32]) {
  constexpr std::string_view kPrefix = "bus-masters-";
  std::memcpy(text, kPrefix.data(), kPrefix.size());
  usize n = kPrefix.size();
  char digits[10];
  usize d = 0;
  do {
    digits[d++] = static_cast<char>('0' + hop % 10);
    hop /= 10;
  } while (hop != 0);
  while (d > 0) text[n++] = digits[--d];
  return {text, n};
}

// "/dev/vfio/devices/vfio7"
std::string_view device_path(u32 number, char (&text)[40]) {
  constexpr std::string_view kPrefix = "/dev/vfio/devices/vfio";
  std::memcpy(text, kPrefix.data(), kPrefix.size());
  usize n = kPrefix.size();
  if (number >= 10) text[n++] = static_cast<char>('0' + number / 10);
  text[n++] = static_cast<char>('0' + number % 10);
  return {text, n};
}

}  // namespace

// --- memory ---------------------------------------------------------------------------------------------------------

BusMasters::Piece BusMasters::piece(u32 name) const {
  const u64 buffers = align_up(E1000e::buffer_bytes(plan_.descriptors), kHugePageSize);
  const u64 ring = buffers + E1000e::ring_bytes(plan_.descriptors);
  const u64 controller = ring + Ohci::kBytes;
  const u64 disk = controller + Nvme::kBytes;
  const u64 copier = disk + Ioat::kBytes;
  switch (name) {
    case kNicBuffers: return {kDomainOf[kNic], 0, buffers, kBuffersIova};
    case kNicRing: return {kDomainOf[kNic], buffers, ring - buffers, kRingIova};
    case kOhciPage: return {kDomainOf[kOhci], ring, Ohci::kBytes, kOhciIova};
    case kNvmePages: return {kDomainOf[kDisk], controller, Nvme::kBytes, kNvmeIova};
    case kIoatPages: return {kDomainOf[kCopier], disk, Ioat::kBytes, kIoatIova};
    default: return {kDomainOf[kEdu], copier, Edu::kBytes, kEduIova};
  }
}

u64 BusMasters::spare_offset(u64 page) const {
  const Piece last = piece(kEduPages);
  return last.offset + last.length + page * kPageSize;
}

u64 BusMasters::memory_bytes() const {
  return align_up(spare_offset(kSparePages), kHugePageSize);
}

DmaArea BusMasters::area(u32 name) const {
  const Piece p = piece(name);
  return {memory_map_.at(p.offset), p.iova, p.length};
}

Result<void> BusMasters::open_memory() {
  state_map_ = TRY(told(context_, "map state", state_file_.map(0, kPageSize)));
  state_ = state_map_.at<State>();
  return {};
}

// --- setting up -----------------------------------------------------------------------------------------------------

Result<void> BusMasters::begin(u32 hop) {
  hop_ = hop;
  for (u32 m = 0; m < kMasters; ++m) {
    evidence_[m] = {};
    evidence_[m].device = kNames[m];
  }
  return hop == 0 ? set_up() : come_back(hop);
}

// What a device is can be read only once it is bound; those that are not wanted are given back.
Result<void> BusMasters::find_devices() {
  constexpr u32 kMostDevices = 100;
  char path[40];
  for (u32 n = 0; n < kMostDevices; ++n) {
    Result<VfioDevice> opened = VfioDevice::open(context_.sys, device_path(n, path));
    if (!opened && opened.error() == Errno::Enoent) break;
    if (!opened) continue;
    VfioDevice device = std::move(*opened);
    const Result<u32> id = device.bind(iommufd_);
    if (!id) continue;
    const client::Region config = TRY(device.region(uapi::vfio_region::kConfig));
    const u64 ids = TRY(device.read(config, 0, 4));
    for (u32 m = 0; m < kMasters; ++m) {
      if (ids != kVendorDevice[m] || !plan_.wanted[m] || (state_->at_work >> m & 1) != 0) continue;
      device_[m] = std::move(device);
      device_id_[m] = *id;
      state_->vfio[m] = n;
      state_->at_work |= u32{1} << m;
      break;
    }
  }
  if (state_->at_work == 0) return fail(Errno::Enodev);
  return {};
}

void BusMasters::make_drivers() {
  const auto there = [&](u32 m) { return static_cast<bool>(device_[m].fd()); };
  if (there(kOhci)) drivers_[kOhci] = &ohci_.emplace(context_, device_[kOhci], area(kOhciPage), state_->ohci);
  if (there(kEdu)) drivers_[kEdu] = &edu_.emplace(context_, device_[kEdu], area(kEduPages), state_->edu);
  if (there(kNic)) {
    drivers_[kNic] = &nic_.emplace(context_, device_[kNic], area(kNicRing), area(kNicBuffers), state_->nic);
  }
  if (there(kDisk)) {
    drivers_[kDisk] = &disk_.emplace(context_, device_[kDisk], area(kNvmePages), state_->disk);
  }
  if (there(kCopier)) {
    drivers_[kCopier] = &copier_.emplace(context_, device_[kCopier], area(kIoatPages), state_->copier);
  }
}

u32 BusMasters::first_of(u32 domain) const {
  u32 m = 0;
  while (m < kMasters && (kDomainOf[m] != domain || !at_work(m))) ++m;
  return m;
}

Result<void> BusMasters::set_up() {
  state_file_ = TRY(told(context_, "create state", Memfd::create(context_.sys, "state", kPageSize)));
  TRY(open_memory());
  *state_ = {};
  state_->magic = kStateMagic;
  state_->descriptors = plan_.descriptors;
  memory_ = TRY(told(context_, "create guest memory", Memfd::create(context_.sys, "guest", memory_bytes())));
  memory_map_ = TRY(told(context_, "map guest memory", memory_.map(0, memory_bytes())));
  iommufd_ = TRY(told(context_, "open /dev/iommu", Iommufd::open(context_.sys)));
  TRY(told(context_, "find a bus master", find_devices()));
  make_drivers();
  for (u32 d = 0; d < kDomains; ++d) {
    if (first_of(d) == kMasters) continue;
    TRY(map_domain(d));
    TRY(mark(d));
  }
  if (edu_) edu_->set_interrupting(plan_.interrupts);
  if (nic_) nic_->set_size(plan_.descriptors);
  if (disk_) disk_->set_reads(plan_.reads);
  for (u32 m = 0; m < kMasters; ++m) {
    if (!at_work(m)) continue;
    for (u32 name = 0; name < kPieces; ++name) {
      if (piece(name).domain == kDomainOf[m]) TRY(declare(m, piece(name)));
    }
    TRY(told(context_, "attach device", device_[m].attach(hwpt_[kDomainOf[m]])));
  }
  state_->hop = 0;
  return each_at_work([](BusMaster& driver) { return driver.start(); });
}

// A new address space with what the domain's devices need in it, and its page table.
Result<void> BusMasters::map_domain(u32 domain) {
  const u32 ioas = ioas_[domain] = TRY(told(context_, "allocate address space", iommufd_.ioas_alloc()));
  for (u32 name = 0; name < kPieces; ++name) {
    const Piece p = piece(name);
    if (p.domain != domain) continue;
    TRY(told(context_, "map guest memory", iommufd_.map_file(ioas, memory_.number(), p.offset, p.length, p.iova)));
  }
  hwpt_[domain] = TRY(told(context_, "allocate page table", iommufd_.hwpt_alloc(device_id_[first_of(domain)], ioas)));
  return {};
}

Result<void> BusMasters::mark(u32 domain) {
  return told(context_, "mark page table", iommufd_.mark_preserve(hwpt_[domain], kHwptToken + domain));
}

Result<void> BusMasters::declare(u32 master, const Piece& piece) {
  context_.witness.intend({
    .device = state_->vfio[master], .iova = piece.iova, .length = piece.length, .memory_id = TRY(memory_.id())
    , .offset = piece.offset
  });
  return {};
}

// --- the jump -------------------------------------------------------------------------------------------------------

Result<void> BusMasters::preserve() {
  char name[32];
  const LiveUpdate lu = TRY(told(context_, "open /dev/liveupdate", LiveUpdate::open(context_.sys)));
  session_ = TRY(told(context_, "create session", lu.create_session(session_name(hop_, name))));
  TRY(told(context_, "preserve guest memory", session_.preserve(memory_.number(), kMemoryToken)));
  TRY(told(context_, "preserve state", session_.preserve(state_file_.number(), kStateToken)));
  TRY(told(context_, "preserve iommufd", session_.preserve(iommufd_.number(), kIommufdToken)));
  for (u32 m = 0; m < kMasters; ++m) {
    if (!at_work(m)) continue;
    TRY(told(context_, "preserve device", session_.preserve(device_[m].number(), kDeviceToken + m)));
  }
  return each_at_work([](BusMaster& driver) { return driver.leave(); });
}

void BusMasters::unpreserve() {
  session_ = {};
}

Result<void> BusMasters::come_back(u32 hop) {
  char name[32];
  const LiveUpdate lu = TRY(told(context_, "open /dev/liveupdate", LiveUpdate::open(context_.sys)));
  const Session session = TRY(told(context_, "retrieve session", lu.retrieve_session(session_name(hop - 1, name))));
  state_file_ = Memfd(TRY(told(context_, "retrieve state", session.retrieve(kStateToken))));
  TRY(open_memory());
  if (state_->magic != kStateMagic || state_->hop != hop - 1) {
    return told(context_, "state that came back", Result<void>(fail(Errno::Eio)));
  }
  plan_.descriptors = state_->descriptors;
  memory_ = Memfd(TRY(told(context_, "retrieve guest memory", session.retrieve(kMemoryToken))));
  memory_map_ = TRY(told(context_, "map guest memory", memory_.map(0, memory_bytes())));
  iommufd_ = Iommufd(TRY(told(context_, "retrieve iommufd", session.retrieve(kIommufdToken))));
  for (u32 m = 0; m < kMasters; ++m) {
    if ((state_->at_work >> m & 1) != 0) TRY(retrieve_device(session, m));
  }
  make_drivers();
  // First of all: what the jump itself has done to them.
  TRY(each_at_work([](BusMaster& driver) { return driver.resume(); }));
  for (u32 d = 0; d < kDomains; ++d) {
    if (first_of(d) != kMasters) TRY(take_over(d));
  }
  TRY(told(context_, "finish session", session.finish()));
  for (u32 d = 0; d < kDomains; ++d) {
    if (first_of(d) != kMasters) TRY(mark(d));
  }
  state_->hop = hop;
  return {};
}

Result<void> BusMasters::retrieve_device(const Session& session, u32 master) {
  Result<client::Fd> retrieved = session.retrieve(kDeviceToken + master);
  // Eio: it is quarantined.
  if (!retrieved && retrieved.error() == Errno::Eio && plan_.may_lose) {
    state_->at_work &= ~(u32{1} << master);
    state_->lost |= u32{1} << master;
    state_->lost_of[master] = {context_.sys.now_ns(), sum_written(master)};
    return {};
  }
  device_[master] = VfioDevice(TRY(told(context_, "retrieve device", std::move(retrieved))));
  device_id_[master] = TRY(told(context_, "bind retrieved device", device_[master].bind(iommufd_)));
  return {};
}

Result<void> BusMasters::take_over(u32 domain) {
  if (plan_.take == Take::Adopt) {
    const Iommufd::Adopted adopted = TRY(told(context_, "adopt page table", iommufd_.hwpt_adopt(kHwptToken + domain)));
    hwpt_[domain] = adopted.hwpt;
    ioas_[domain] = adopted.ioas;
    return {};
  }
  const u32 restored = TRY(told(context_, "reclaim page table", iommufd_.hwpt_restore(kHwptToken + domain)));
  if (plan_.take == Take::Keep) {
    hwpt_[domain] = restored;
    return {};
  }
  TRY(map_domain(domain));
  for (u32 m = 0; m < kMasters; ++m) {
    if (kDomainOf[m] != domain || !at_work(m)) continue;
    TRY(told(context_, "replace page table", device_[m].attach(hwpt_[domain])));
  }
  return told(context_, "destroy the former page table", iommufd_.destroy(restored));
}

void BusMasters::forget() {
  for (client::Fd* fd : {&memory_.fd(), &state_file_.fd(), &iommufd_.fd(), &session_.fd()}) fd->release();
  for (VfioDevice& device : device_) device.fd().release();
  if (edu_) edu_->forget();
  memory_map_.release();
  state_map_.release();
}

// --- evidence -------------------------------------------------------------------------------------------------------

Result<void> BusMasters::wrong(u32 master, std::string_view what) {
  evidence_[master].ok = false;
  // Nothing that the device says: a call failed, and the witness was told which.
  evidence_[master].what = what.empty() ? std::string_view("a call for the device failed") : what;
  return told(context_, evidence_[master].what, Result<void>(fail(Errno::Eio)));
}

void BusMasters::report(u32 master) {
  Evidence& e = evidence_[master];
  e.present = at_work(master) || lost(master);
  e.lost = lost(master);
  e.ok = at_work(master);
  e.what = {};
  e.count = 0;
  if (!at_work(master)) return;
  drivers_[master]->report(e);
  if (master != kEdu) return;
  e.add("leaf_changes", state_->leaf_changes);
  e.add("table_changes", state_->table_changes);
}

Result<void> BusMasters::verify() {
  return look(false);
}

Result<void> BusMasters::settle() {
  TRY(look(true));
  if (!at_work(kEdu) || ioas_[kDomainOf[kEdu]] == 0) return {};
  TRY(change_leaf());
  TRY(change_table());
  report(kEdu);
  return {};
}

Result<void> BusMasters::look(bool patient) {
  Result<void> all = each_at_work([&](BusMaster& driver) { return driver.check(patient); });
  for (u32 m = 0; m < kMasters; ++m) {
    if (!lost(m)) continue;
    if (const Result<void> one = watch_lost(m); !one) all = one;
  }
  return all;
}

// One that is not well does not keep the others from being asked.
Result<void> BusMasters::each_at_work(FunctionRef<Result<void>(BusMaster&)> ask) {
  Result<void> all;
  for (u32 m = 0; m < kMasters; ++m) {
    const Result<void> one = at_work(m) ? ask(*drivers_[m]) : Result<void>();
    report(m);
    if (!one) all = wrong(m, drivers_[m]->what());
  }
  return all;
}

u64 BusMasters::sum_written(u32 master) const {
  constexpr u32 kWritten[kMasters] = {kOhciPage, kEduPages, kNicRing, kNvmePages, kIoatPages};
  const DmaArea written = area(kWritten[master]);
  u64 sum = 0;
  for (u64 at = 0; at < written.length; at += 8) sum = mix64(sum ^ hw::load(written.word<u64>(at)));
  return sum;
}

// Nobody can ask the device; but what it writes shows.
Result<void> BusMasters::watch_lost(u32 master) {
  const State::Lost& since = state_->lost_of[master];
  while (context_.sys.now_ns() - since.since_ns < plan_.silence_ns) context_.sys.pause();
  const bool silent = sum_written(master) == since.sum;
  Evidence& e = evidence_[master];
  e.add("stopped", silent ? 1 : 0);
  e.add("watched_ns", context_.sys.now_ns() - since.since_ns);
  if (!silent) return wrong(master, "a device that its kernel has stopped still writes to memory");
  e.ok = true;
  return {};
}

// --- changes --------------------------------------------------------------------------------------------------------

Result<void> BusMasters::map_spare(u32 ioas, u64 page, u64 iova) {
  hw::store(reinterpret_cast<u64*>(memory_map_.at(spare_offset(page))), kPoison);
  TRY(told(context_, "map a spare page",
           iommufd_.map_file(ioas, memory_.number(), spare_offset(page), kPageSize, iova)));
  return declare(kEdu, {kDomainOf[kEdu], spare_offset(page), kPageSize, iova});
}

// The edu writes to `iova`: it must arrive in the page, and leave the other as it is.
Result<void> BusMasters::expect_spare(u64 word, u64 iova, u64 page, u64 other, std::string_view what) {
  const auto at = [&](u64 p) { return hw::load(reinterpret_cast<u64*>(memory_map_.at(spare_offset(p)))); };
  const u64 there = at(other);
  const Result<u64> value = edu_->store(word, iova);
  report(kEdu);
  if (!value) return wrong(kEdu, edu_->what());
  if (at(page) != *value || at(other) != there) return wrong(kEdu, what);
  return {};
}

// The unit has used a mapping when it is taken away and made anew to elsewhere: without a flush it would use it again.
// A neighbour stays, so that no table goes with the mapping, which would have all of the domain flushed.
Result<void> BusMasters::change_leaf() {
  const u32 ioas = ioas_[kDomainOf[kEdu]];
  TRY(map_spare(ioas, 1, kLeafIova));
  TRY(map_spare(ioas, 0, kLeafIova + kPageSize));
  TRY(expect_spare(1, kLeafIova, 1, 0, "data does not arrive in a page that was just mapped"));
  TRY(told(context_, "unmap a spare page", iommufd_.unmap(ioas, kLeafIova, kPageSize)));
  TRY(map_spare(ioas, 2, kLeafIova));
  TRY(expect_spare(2, kLeafIova, 2, 1, "after a change of a mapping data went where the old one led"));
  TRY(told(context_, "unmap a spare page", iommufd_.unmap(ioas, kLeafIova, kPageSize)));
  TRY(told(context_, "unmap a spare page", iommufd_.unmap(ioas, kLeafIova + kPageSize, kPageSize)));
  ++state_->leaf_changes;
  return {};
}

// The same for an attachment: to another page table, and back.
Result<void> BusMasters::change_table() {
  const u32 domain = kDomainOf[kEdu];
  TRY(map_spare(ioas_[domain], 1, kTableIova));
  TRY(expect_spare(3, kTableIova, 1, 3, "data does not arrive in a page that was just mapped"));
  const u32 ioas = TRY(told(context_, "allocate another address space", iommufd_.ioas_alloc()));
  TRY(map_spare(ioas, 3, kTableIova));
  const u32 hwpt = TRY(told(context_, "allocate another page table", iommufd_.hwpt_alloc(device_id_[kEdu], ioas)));
  TRY(told(context_, "attach to another page table", device_[kEdu].attach(hwpt)));
  TRY(expect_spare(4, kTableIova, 3, 1, "after a change of page tables data went where the old one led"));
  TRY(told(context_, "attach to the former page table", device_[kEdu].attach(hwpt_[domain])));
  TRY(declare(kEdu, {domain, spare_offset(1), kPageSize, kTableIova}));
  TRY(expect_spare(5, kTableIova, 1, 3, "back at its page table, data went where the other one leads"));
  TRY(told(context_, "destroy the other page table", iommufd_.destroy(hwpt)));
  TRY(told(context_, "destroy the other address space", iommufd_.destroy(ioas)));
  TRY(told(context_, "unmap a spare page", iommufd_.unmap(ioas_[domain], kTableIova, kPageSize)));
  ++state_->table_changes;
  return {};
}

}  // namespace perdure::scenarios
