// The incoming image. A real update is made once (boot, preserve, freeze, jump); each input is a list of changes to
// what the old kernel left, by schema (a field of a record, with its checksum repaired or not) or of raw bytes; then
// the next kernel boots on it and a program takes back what it can get.
//
// Hardware's own tables are not changed: units follow them whatever a kernel reads, so what they say is not a question
// of trust. All the rest is hostile. Whatever it says: no fault of the kernel's, no end without end, translation stays
// on, every transfer goes where its program wanted it or nowhere, and nothing that hardware reads or writes becomes
// free.
#include <algorithm>
#include <cstring>
#include <memory>
#include <set>

#include "client/iommufd.h"
#include "client/live_update.h"
#include "client/memfd.h"
#include "client/vfio_device.h"
#include "core/abi/boot_info.h"
#include "fuzz/catalog.h"
#include "fuzz/hardware_walk.h"
#include "fuzz/input.h"
#include "fuzz/world.h"
#include "machine/board/handover_reader.h"
#include "scenarios/drivers/streamer.h"

namespace perdure::fuzz {
namespace {

using board::Phase;
using client::Iommufd;
using client::LiveUpdate;
using client::Memfd;
using client::Session;
using client::VfioDevice;

constexpr u64 kBig = u64{6} << 20;  // guest memory of devices 0 and 1
constexpr u64 kSmall = u64{128} << 10;
constexpr u64 kHugeIova = u64{1} << 30;                    // one leaf of 2 MiB
constexpr u64 kPageIova = (u64{3} << 30) + 3 * kPageSize;  // leaves of 4 KiB
constexpr u64 kBigToken = 1, kSmallToken = 2, kIommufdToken = 3, kDeviceToken = 10, kHwptToken = 20, kFileToken = 7;
constexpr unsigned kMostChanges = 24;
constexpr u64 kRun = 2'000'000;  // ns that devices run after the boot

std::string_view device_path(usize i) {
  constexpr std::string_view kPaths[] = {"/dev/vfio/devices/vfio0", "/dev/vfio/devices/vfio1",
                                         "/dev/vfio/devices/vfio2"};
  return kPaths[i];
}
u32 domain_of(usize device) {
  return device == 2 ? 1 : 0;
}

// The moment after the jump, of one kind of machine.
class Base {
 public:
  Base(const WorldConfig& config, u32 version) : world(config), next_version_(version == 1 ? 2 : 1) {
    FUZZ_REQUIRE(world.power_on(version), "the first kernel does not boot");
    set_up(world.program());
    world.board().step_for(kRun);
    world.board().enter_phase(Phase::During);
    const auto at = world.leave();
    FUZZ_REQUIRE(at, "the update does not come to its jump");
    boot_at = *at;
    fdt = reinterpret_cast<const abi::BootInfo*>(world.at(boot_at.value))->kho_fdt;
    std::vector<board::Bdf> all;
    for (usize i = 0; i < World::kDevices; ++i) all.push_back(world.bdf(i));
    reach = reach_of(world.board(), all);
    catalog = catalog_of(world.board(), fdt, boot_at.value, reach.pages);
    world.keep();
  }

  u32 next_version() const { return next_version_; }

  World world;
  Phys boot_at;
  u64 fdt = 0;
  Reach reach;
  Catalog catalog;

 private:
  template <class T>
  static T must(Result<T> result, const char* what) {
    FUZZ_REQUIRE(result, "%s: error %d", what, static_cast<int>(result.error()));
    if constexpr (!std::is_void_v<T>) return std::move(*result);
  }

  void set_up(process::LocalProgram& sys) {
    const Memfd big = must(Memfd::create(sys, "big", kBig), "memory");
    const Memfd small = must(Memfd::create(sys, "small", kSmall), "memory");
    // A file that no device uses: a few pages with holes between them, and an odd size.
    const Memfd file = must(Memfd::create(sys, "file", 9 * kPageSize + 5, 0), "memory");
    for (const u64 page : {u64{0}, u64{3}, u64{4}, u64{8}}) {
      const client::Mapping m = must(file.map(page * kPageSize, kPageSize), "mapping");
      std::memset(m.at(), 0x11, 64);
    }
    const Iommufd iommufd = must(Iommufd::open(sys), "iommufd");
    VfioDevice devices[World::kDevices];
    u32 ids[World::kDevices] = {};
    for (usize i = 0; i < World::kDevices; ++i) {
      devices[i] = must(VfioDevice::open(sys, device_path(i)), "device");
      ids[i] = must(devices[i].bind(iommufd), "bind");
    }
    for (u32 d = 0; d < 2; ++d) {
      const u32 ioas = must(iommufd.ioas_alloc(), "ioas");
      const s32 memory = d == 0 ? big.number() : small.number();
      if (d == 0) {
        must(iommufd.map_file(ioas, memory, 0, kHugePageSize, kHugeIova), "map");
        must(iommufd.map_file(ioas, memory, kHugePageSize, kBig - kHugePageSize, kPageIova), "map");
      } else {
        must(iommufd.map_file(ioas, memory, 0, kSmall, kPageIova), "map");
      }
      const u32 hwpt = must(iommufd.hwpt_alloc(ids[d == 0 ? 0 : 2], ioas), "hwpt");
      must(iommufd.mark_preserve(hwpt, kHwptToken + d), "mark");
      for (usize i = 0; i < World::kDevices; ++i) {
        if (domain_of(i) == d) must(devices[i].attach(hwpt), "attach");
      }
    }
    for (usize i = 0; i < World::kDevices; ++i) {
      declare(i, must((domain_of(i) == 0 ? big : small).id(), "id"));
      must(devices[i].set_bus_master(true), "bus master");
      start(devices[i], i);
    }
    const LiveUpdate lu = must(LiveUpdate::open(sys), "live update");
    Session vm = must(lu.create_session("vm"), "session");
    must(vm.preserve(big.number(), kBigToken), "preserve memory");
    must(vm.preserve(small.number(), kSmallToken), "preserve memory");
    must(vm.preserve(iommufd.number(), kIommufdToken), "preserve iommufd");
    for (usize i = 0; i < World::kDevices; ++i)
      must(vm.preserve(devices[i].number(), kDeviceToken + i), "preserve device");
    Session files = must(lu.create_session("files"), "session");
    must(files.preserve(file.number(), kFileToken), "preserve file");
    // The sessions stay open: the jump takes them.
    vm.fd().release();
    files.fd().release();
  }
  void declare(usize device, u64 id) {
    const auto intend = [&](u64 iova, u64 length, u64 offset) {
      FUZZ_REQUIRE(
          world.board().declare(world.bdf(device), {.iova = iova, .length = length, .host_id = id, .offset = offset}),
          "the ledger refuses");
    };
    if (domain_of(device) == 0) {
      intend(kHugeIova, kHugePageSize, 0);
      intend(kPageIova, kBig - kHugePageSize, kHugePageSize);
    } else {
      intend(kPageIova, kSmall, 0);
    }
  }
  void start(const VfioDevice& device, usize i) {
    const auto streamer = must(scenarios::Streamer::open(device), "streamer");
    const u64 pages = domain_of(i) == 0 ? (kBig - kHugePageSize) / 2 : kSmall;
    const u64 mine = domain_of(i) == 0 ? i * pages : 0;
    scenarios::RingPlan plan{.base = kPageIova + mine, .length = pages, .slots = 16, .seed = i + 1, .rate = 5'000};
    must(streamer.start(0, plan), "ring");
    if (domain_of(i) == 0) {
      plan.base = kHugeIova + i * (kHugePageSize / 2);
      plan.length = kHugePageSize / 2;
      must(streamer.start(1, plan), "ring");
    }
  }

  u32 next_version_;
};

class Run {
 public:
  // `intact`: the image stays as it was, and everything must succeed, or else nothing below would prove anything.
  Run(Base& base, Input in, bool intact = false) : base_(base), world_(base.world), in_(in), intact_(intact) {}

  void go() {
    world_.go_back();
    const u8 kind = in_.byte();
    world_.unit().set_policy(static_cast<board::CachePolicy>(kind % 3), 1);
    const usize gaps = world_.unit().gaps().size();
    if (!intact_) change();
    // What the image says now may leave out pages that hardware uses: then nobody can know that they are not free, and
    // only the kernel itself is looked at. (docs/limits.md)
    const bool whole = keeps_hardware();
    FUZZ_REQUIRE(whole || !intact_, "the image that was made leaves out what hardware uses");
    const bool up = world_.boot(base_.next_version(), base_.boot_at).has_value();
    FUZZ_REQUIRE(up || !intact_, "the next kernel does not boot on the image that was made");
    if (up) {
      if (whole) check_frames("the boot");
      come_back();
      if (whole) check_frames("the program");
    }
    world_.board().step_for(kRun);
    FUZZ_REQUIRE(world_.unit().gaps().size() == gaps, "translation went off");
    FUZZ_REQUIRE((world_.unit().read(0x1C, 4) >> 31 & 1) != 0, "translation is off");
    if (whole) check_devices();
    held_ = {};
    if (up && whole) {
      world_.end_programs();
      check_frames("the program's end");
    }
    world_.shut_down();
  }

 private:
  // --- what the input does to the image -----------------------------------------------------------------------------
  u64 any_address() {
    const std::vector<u64>& all = base_.catalog.addresses;
    switch (in_.below(8)) {
      case 0: return 0;
      case 1: return World::kRam - in_.below(3) * kPageSize;
      case 2: return world_.board().window() - in_.below(3) * kPageSize;
      case 3: return all[in_.number<u16>() % all.size()] + in_.byte();
      case 4: return base_.catalog.objects[in_.number<u16>() % base_.catalog.objects.size()].phys;
      default: return all[in_.number<u16>() % all.size()];
    }
  }
  u64 value(u64 old, u64 min, u64 max) {
    switch (in_.below(12)) {
      case 0: return 0;
      case 1: return min;
      case 2: return max;
      case 3: return min - 1;
      case 4: return max + 1;
      case 5: return old + 1;
      case 6: return old - 1;
      case 7: return old ^ u64 { 1 } << in_.below(64);
      case 8: return in_.byte();
      case 9: return ~u64{0};
      case 10: return any_address();
      default: return in_.number<u64>();
    }
  }
  void change_word(u64 at, unsigned bytes, u64 min, u64 max) {
    u64 old = 0;
    std::memcpy(&old, world_.at(at), bytes);
    const u64 v = value(old, min, max);
    std::memcpy(world_.at(at), &v, bytes);
  }
  void repair(const Object& o) {
    if (o.seal != nullptr) abi::seal(*o.seal, std::span(world_.at(o.seal_at), o.seal->size));
  }
  const Object& any_object() { return base_.catalog.objects[in_.number<u16>() % base_.catalog.objects.size()]; }

  void change_field() {
    const Object& o = any_object();
    const abi::FieldDef& f = o.fields[in_.below(static_cast<u32>(o.fields.size()))];
    const unsigned bytes = std::min<unsigned>(f.size, 8);
    // Of long fields some word or byte.
    const u64 within = f.size > 8 ? in_.number<u16>() % (f.size - 7u) : 0;
    change_word(o.phys + f.offset + within, bytes, f.min, f.max);
    if (in_.below(8) != 0) repair(o);
  }
  void change_bytes() {
    const std::vector<u64>& pages = base_.catalog.pages;
    const u64 page = pages[in_.number<u16>() % pages.size()];
    static constexpr unsigned kWidths[] = {1, 2, 4, 8};
    const unsigned width = in_.one_of(kWidths);
    change_word(page + in_.number<u16>() % (kPageSize - 7), width, 0, ~u64{0});
  }
  // One record becomes another one, or a page another page.
  void copy() {
    const Object& from = any_object();
    const Object& to = any_object();
    std::memmove(world_.at(to.phys), world_.at(from.phys), std::min(from.bytes, to.bytes));
    if (in_.below(4) != 0) repair(to);
  }
  void copy_page() {
    const std::vector<u64>& pages = base_.catalog.pages;
    const u64 from = pages[in_.number<u16>() % pages.size()];
    std::memmove(world_.at(pages[in_.number<u16>() % pages.size()]), world_.at(from), kPageSize);
  }
  void change() {
    const unsigned n = in_.below(kMostChanges + 1);
    for (unsigned i = 0; i < n && !in_.empty(); ++i) {
      switch (in_.below(8)) {
        case 0: change_bytes(); break;
        case 1: copy(); break;
        case 2: copy_page(); break;
        default: change_field(); break;
      }
    }
    // The machine seals what it starts a kernel with.
    abi::BootInfo info;
    std::memcpy(&info, world_.at(base_.boot_at.value), sizeof info);
    abi::seal(info);
    std::memcpy(world_.at(base_.boot_at.value), &info, sizeof info);
    fdt_ = info.kho_fdt;
  }

  // --- what must hold
  // -------------------------------------------------------------------------------------------------
  bool keeps_hardware() {
    const board::HandoverImage image = board::read_handover(world_.board().memory(), fdt_);
    if (fdt_ == 0 || !image.valid) return false;
    for (const u64 page : base_.reach.pages) {
      const bool kept = std::any_of(image.preserved.begin(), image.preserved.end(),
                                    [&](const board::PhysRange& r) { return r.base <= page && page < r.end(); });
      if (!kept) return false;
    }
    return true;
  }
  // Nothing that hardware reads or may write is free.
  void check_frames(const char* after) {
    std::vector<board::Bdf> masters;
    for (usize i = 0; i < World::kDevices; ++i) {
      const u64 command =
          world_.board().mmio_read(Phys(board::PciBus::kEcamBase + (u64{world_.bdf(i).value} << 12) + 4), Width::W16);
      if ((command & 4) != 0) masters.push_back(world_.bdf(i));
    }
    const Reach now = reach_of(world_.board(), masters);
    const FrameAllocator& frames = world_.kernel().frames();
    for (const u64 page : now.pages) {
      FUZZ_REQUIRE(frames.in_use(Phys(page), kPageSize), "after %s: the unit reads %llx, which is free", after,
                   static_cast<unsigned long long>(page));
    }
    for (const Reach::Leaf& leaf : now.leaves) {
      if (!world_.board().memory().is_kernel_ram(leaf.phys, leaf.bytes)) continue;
      FUZZ_REQUIRE(frames.in_use(Phys(leaf.phys), leaf.bytes), "after %s: a device reaches %llx, which is free", after,
                   static_cast<unsigned long long>(leaf.phys));
    }
  }
  void check_devices() {
    const board::AuditReport report = world_.board().audit();
    for (const board::DeviceResult& d : report.devices) {
      const board::PhaseResult& p = d.in(Phase::During);
      FUZZ_REQUIRE(!intact_ || (p.done > 10 && p.lost == 0), "%s: %llu done, %llu lost with the image that was made",
                   d.name.c_str(), static_cast<unsigned long long>(p.done), static_cast<unsigned long long>(p.lost));
      FUZZ_REQUIRE(p.misdirected == 0 && p.corrupted == 0 && p.strays == 0 && p.duplicated == 0,
                   "%s: misdirected %llu, corrupted %llu, strays %llu, duplicated %llu", d.name.c_str(),
                   static_cast<unsigned long long>(p.misdirected), static_cast<unsigned long long>(p.corrupted),
                   static_cast<unsigned long long>(p.strays), static_cast<unsigned long long>(p.duplicated));
    }
    for (const std::string& v : world_.board().violations()) {
      FUZZ_REQUIRE(false, "hardware rule broken: %s", v.c_str());
    }
  }

  // --- the program that comes back; the input says in which way
  // --------------------------------------------------------
  // True when it worked.
  template <class T>
  bool good(const Result<T>& result, const char* what) const {
    FUZZ_REQUIRE(result || !intact_, "%s fails on the image that was made: error %d", what,
                 static_cast<int>(result.error()));
    return result.has_value();
  }
  void come_back() {
    process::LocalProgram& sys = world_.program();
    const u8 way = in_.byte();
    const auto lu = LiveUpdate::open(sys);
    if (!good(lu, "opening /dev/liveupdate")) return;
    if (auto files = lu->retrieve_session("files"); good(files, "retrieving a session")) {
      if (auto file = files->retrieve(kFileToken); good(file, "retrieving a file")) {
        const Memfd memory(std::move(*file));
        if (const auto m = memory.map(0, kPageSize)) (void)*static_cast<volatile std::byte*>(m->at());
      }
      if ((way & 1) == 0) good(files->finish(), "finishing a session");
    }
    auto vm = lu->retrieve_session("vm");
    if (!good(vm, "retrieving a session")) return;
    auto& [memory, iommufd, devices] = held_;
    u32 ids[World::kDevices] = {};
    if (auto fd = vm->retrieve(kIommufdToken); good(fd, "retrieving the iommufd")) iommufd = Iommufd(std::move(*fd));
    if (auto fd = vm->retrieve(kBigToken); good(fd, "retrieving memory")) memory[0] = Memfd(std::move(*fd));
    if (auto fd = vm->retrieve(kSmallToken); good(fd, "retrieving memory")) memory[1] = Memfd(std::move(*fd));
    if (!iommufd.fd()) return;
    for (usize i = 0; i < World::kDevices; ++i) {
      if (auto fd = vm->retrieve(kDeviceToken + i); good(fd, "retrieving a device"))
        devices[i] = VfioDevice(std::move(*fd));
      if (!devices[i].fd()) continue;
      if (const auto id = devices[i].bind(iommufd); good(id, "binding a device")) ids[i] = *id;
    }
    for (u32 d = 0; d < 2; ++d) {
      if ((way & 32) != 0) {
        (void)iommufd.hwpt_adopt(kHwptToken + d);
        continue;
      }
      const auto restored = iommufd.hwpt_restore(kHwptToken + d);
      if (!good(restored, "reclaiming a page table") || (way & 2) != 0) continue;
      const auto ioas = iommufd.ioas_alloc();
      if (!good(ioas, "a new address space")) continue;
      if (d == 0) {
        good(iommufd.map_file(*ioas, memory[0].number(), 0, kHugePageSize, kHugeIova), "mapping");
        good(iommufd.map_file(*ioas, memory[0].number(), kHugePageSize, kBig - kHugePageSize, kPageIova), "mapping");
      } else {
        good(iommufd.map_file(*ioas, memory[1].number(), 0, kSmall, kPageIova), "mapping");
      }
      const auto hwpt = iommufd.hwpt_alloc(ids[d == 0 ? 0 : 2], *ioas);
      if (!good(hwpt, "a new page table")) continue;
      for (usize i = 0; i < World::kDevices; ++i) {
        if (domain_of(i) == d && devices[i].fd()) good(devices[i].attach(*hwpt), "replacing a page table");
      }
      if ((way & 4) == 0) good(iommufd.destroy(*restored), "destroying the former page table");
    }
    if ((way & 8) == 0) good(vm->finish(), "finishing a session");
    world_.board().step_for(kRun / 4);
    // While everything is open: devices that came back run on as they were.
    if ((way & 16) != 0) sys.pause();
  }

  Base& base_;
  World& world_;
  Input in_;
  u64 fdt_ = base_.fdt;
  // What the program holds open until devices have been looked at.
  struct Held {
    Memfd memory[2];
    Iommufd iommufd;
    VfioDevice devices[World::kDevices];
  } held_;
  bool intact_;
};

}  // namespace
}  // namespace perdure::fuzz

extern "C" int LLVMFuzzerTestOneInput(const perdure::u8* data, perdure::usize bytes) {
  using namespace perdure::fuzz;
  static Base* const bases[] = {new Base({.coherent = true}, 1), new Base({.coherent = false}, 2),
                                new Base({.coherent = true, .scalable = true}, 2),
                                new Base({.coherent = false, .scalable = true}, 1)};
  static const bool proven = [] {
    for (Base* base : bases) Run(*base, Input(nullptr, 0), true).go();
    return true;
  }();
  FUZZ_REQUIRE(proven, "the machine as it is");
  Input in(data, bytes);
  Base& base = *bases[in.byte() & 3];
  Run(base, in).go();
  return 0;
}
