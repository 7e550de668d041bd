// System calls of two programs over /dev/liveupdate, /dev/iommu and the devices, in any order: arguments come from
// small pools of what exists and of what does not, structures are of any size, allocations fail where the input says,
// and now and then the kernel is replaced. Whatever they do: the kernel holds, devices reach nothing but programs'
// memory, translation follows the rules of the hardware, and when everything is closed nothing is left over.
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "client/iommufd.h"
#include "client/live_update.h"
#include "client/memfd.h"
#include "client/vfio_device.h"
#include "core/uapi/iommufd_test.h"
#include "core/uapi/liveupdate.h"
#include "core/uapi/vfio.h"
#include "fuzz/hardware_walk.h"
#include "fuzz/input.h"
#include "fuzz/world.h"
#include "machine/board/handover_reader.h"
#include "scenarios/drivers/streamer.h"

namespace perdure::fuzz {
namespace {

using namespace uapi;  // NOLINT(google-build-using-namespace): the structures of one API

constexpr unsigned kMostCalls = 160;
constexpr unsigned kMostJumps = 2;
constexpr usize kMostFds = 48;
constexpr usize kMostMemory = 6;

constexpr u32 kCommands[] = {
    kIommuDestroy,
    kIommuIoasAlloc,
    kIommuIoasAllowIovas,
    kIommuIoasCopy,
    kIommuIoasIovaRanges,
    kIommuIoasMap,
    kIommuIoasUnmap,
    kIommuOption,
    kIommuVfioIoas,
    kIommuHwptAlloc,
    kIommuGetHwInfo,
    kIommuHwptSetDirtyTracking,
    kIommuHwptInvalidate,
    kIommuFaultQueueAlloc,
    kIommuHwptGetDirtyBitmap,
    kIommuIoasMapFile,
    kIommuViommuAlloc,
    kIommuVdeviceAlloc,
    kIommuIoasChangeProcess,
    kIommuVeventqAlloc,
    kIommuHwQueueAlloc,
    kIommuIoasNoiommuGetPa,
    kIommuHwptMarkPreserve,
    kIommuHwptRestore,
    kVfioDeviceGetInfo,
    kVfioDeviceGetRegionInfo,
    kVfioDeviceGetIrqInfo,
    kVfioDeviceSetIrqs,
    kVfioDeviceReset,
    kVfioDeviceGetPciHotResetInfo,
    kVfioDevicePciHotReset,
    kVfioDeviceIoeventfd,
    kVfioDeviceFeature,
    kVfioDeviceBindIommufd,
    kVfioDeviceAttachIommufdPt,
    kVfioDeviceDetachIommufdPt,
    kLiveupdateCreateSession,
    kLiveupdateRetrieveSession,
    kLiveupdateSessionPreserveFd,
    kLiveupdateSessionRetrieveFd,
    kLiveupdateSessionFinish,
    kLiveupdateSessionGetName,
    0,
};
constexpr std::string_view kPaths[] = {
    "/dev/iommu",  "/dev/liveupdate",         "/dev/vfio/devices/vfio0", "/dev/vfio/devices/vfio1",
    "/dev/iommu",  "/dev/vfio/devices/vfio2", "/dev/vfio/devices/vfio3", "/dev/vfio/devices/vfio",
    "/dev/nothing"};
constexpr std::string_view kDevicePaths[World::kDevices] = {"/dev/vfio/devices/vfio0", "/dev/vfio/devices/vfio1",
                                                            "/dev/vfio/devices/vfio2"};
constexpr u64 kIovas[] = {0,           0x1000,      0x20'0000, 0x4000'0000,  0x8000'0000,
                          0xFEE0'0000, 0xFEDF'F000, 0x1001,    u64{1} << 39, (u64{1} << 48) - 0x1000,
                          ~u64{0},     ~u64{0xFFF}};
constexpr u64 kLengths[] = {0,      0x1000, 0x2000,  0x20'0000,   0x40'0000,   0x8000,
                            0x1001, 1,      ~u64{0}, ~u64{0xFFF}, u64{1} << 40};

struct Totals {
  u64 heap = 0;
  FrameAllocator::Totals frames;
  u64 kept = 0;  // nodes of the handover tree and tables of buses, of which there only come more
};

class Run {
 public:
  Run(World& world, Input in) : world_(world), in_(in) {}

  void go() {
    world_.go_back();
    world_.steps().fail_at = 0;
    const u8 kind = in_.byte();
    world_.unit().set_policy(static_cast<board::CachePolicy>(kind % 3), 1);
    version_ = (kind & 4) != 0 ? 2 : 1;
    FUZZ_REQUIRE(world_.power_on(version_), "the first kernel does not boot");
    gaps_ = world_.unit().gaps().size();
    warm_up();
    const Totals before = totals();
    for (unsigned i = 0; i < kMostCalls && !in_.empty(); ++i) call();
    check_reach();
    world_.steps().fail_at = 0;
    check_gaps();
    for (std::vector<u64>& m : programs_) m.clear();
    world_.end_programs();
    if (jumps_ == 0) check_nothing_left(before);
    for (const std::string& v : world_.board().violations()) FUZZ_REQUIRE(false, "hardware rule broken: %s", v.c_str());
    world_.shut_down();
  }

 private:
  // --- what the input chooses
  // -------------------------------------------------------------------------------------------
  process::LocalProgram& sys() { return world_.program(current_); }
  std::vector<u64>& fds() { return programs_[current_]; }
  s32 fd() {
    static constexpr s32 kBad[] = {-1, 0x7FFF'FFFF, 1 << 20, 900};
    const u8 which = in_.byte();
    if (fds().empty() || which >= 0xF8) return kBad[which & 3];
    return static_cast<s32>(fds()[which % fds().size()]);
  }
  u32 id() {
    const u8 which = in_.byte();
    if (ids_.empty() || which >= 0xF8) return which & 7;
    return ids_[which % ids_.size()];
  }
  u64 token() { return in_.below(6); }
  u64 iova() {
    const u8 which = in_.byte();
    return kIovas[which % std::size(kIovas)] + (which >= 0xC0 ? in_.number<u16>() * kPageSize : 0);
  }
  u64 length() { return in_.one_of(kLengths); }
  void keep_fd(u64 fd) {
    if (fds().size() < kMostFds) {
      fds().push_back(fd);
    } else {
      (void)sys().close(static_cast<s32>(fd));
    }
  }
  void keep_id(u32 id) {
    if (std::find(ids_.begin(), ids_.end(), id) == ids_.end()) ids_.push_back(id);
  }

  // The structure in a program's memory, with a size that may be wrong and something behind it.
  template <class T>
  Result<u64> ioctl(s32 fd, u32 cmd, T& arg) {
    std::byte room[4200] = {};
    u32 size = sizeof(T);
    const u8 how = in_.byte();
    switch (how >> 4) {
      case 15: size = how & 15; break;
      case 14: size = sizeof(T) - 4; break;
      case 13: size = sizeof(T) + 8; break;
      case 12:
        size = sizeof(T) + 8;
        room[sizeof(T) + 3] = std::byte{1};
        break;
      case 11: size = 4100; break;
      default: break;
    }
    if constexpr (requires { arg.argsz; }) {
      arg.argsz = size;
    } else {
      arg.size = size;
    }
    std::memcpy(room, &arg, sizeof arg);
    const auto done = sys().ioctl(fd, cmd, how == 0xA7 ? nullptr : room);
    std::memcpy(&arg, room, sizeof arg);
    return done;
  }

  // --- calls
  // One preserve of everything that is taken back: lists keep the room that they once had.
  void warm_up() {
    process::LocalProgram& sys = world_.program(0);
    {
      const auto must = [](const auto& result) { FUZZ_REQUIRE(result, "what always works fails"); };
      const auto memory = client::Memfd::create(sys, "fuzz", kPageSize);
      const auto iommufd = client::Iommufd::open(sys);
      const auto lu = client::LiveUpdate::open(sys);
      must(memory);
      must(iommufd);
      must(lu);
      const auto session = lu->create_session("a");
      const auto other = lu->create_session("b");
      must(session);
      must(other);
      client::VfioDevice devices[World::kDevices];
      for (usize i = 0; i < World::kDevices; ++i) {
        auto device = client::VfioDevice::open(sys, kDevicePaths[i]);
        must(device);
        devices[i] = std::move(*device);
        const auto id = devices[i].bind(*iommufd);
        const auto ioas = iommufd->ioas_alloc();
        must(id);
        must(ioas);
        must(iommufd->map_file(*ioas, memory->number(), 0, kPageSize, kPageSize));
        const auto hwpt = iommufd->hwpt_alloc(*id, *ioas);
        must(hwpt);
        must(iommufd->mark_preserve(*hwpt, i));
        must(devices[i].attach(*hwpt));
      }
      must(session->preserve(memory->number(), 1));
      must(session->preserve(iommufd->number(), 2));
      for (usize i = 0; i < World::kDevices; ++i) must(session->preserve(devices[i].number(), 3 + i));
    }
    world_.end_programs();
  }

  // ------------------------------------------------------------------------------------------------------------
  void call() {
    switch (in_.below(32)) {
      case 0:
      case 1:
        if (const auto opened = sys().open(in_.one_of(kPaths))) keep_fd(static_cast<u64>(*opened));
        break;
      case 2: close(); break;
      case 3: make_memory(); break;
      case 4:
        if (const auto made = sys().eventfd()) keep_fd(static_cast<u64>(*made));
        break;
      case 5: raw(); break;
      case 6: {
        IommuIoasAlloc a{.size = 0, .flags = in_.below(16) == 0 ? 1u : 0, .out_ioas_id = 0};
        if (ioctl(fd(), kIommuIoasAlloc, a)) keep_id(a.out_ioas_id);
        break;
      }
      case 7:
      case 8: {
        IommuIoasMapFile a{
            .size = 0, .flags = flags(), .ioas_id = id(), .fd = fd(), .start = 0, .length = 0, .iova = 0};
        a.start = in_.below(4) * kPageSize;
        a.length = length();
        a.iova = iova();
        (void)ioctl(fd(), kIommuIoasMapFile, a);
        break;
      }
      case 9: map(); break;
      case 10: {
        IommuIoasUnmap a{.size = 0, .ioas_id = id(), .iova = iova(), .length = length()};
        (void)ioctl(fd(), kIommuIoasUnmap, a);
        break;
      }
      case 11:
      case 12: {
        IommuHwptAlloc a;
        a.flags = in_.below(8) == 0 ? in_.below(32) : 0;
        a.dev_id = id();
        a.pt_id = id();
        a.data_type = in_.below(16) == 0 ? in_.below(3) : 0;
        if (ioctl(fd(), kIommuHwptAlloc, a)) keep_id(a.out_hwpt_id);
        break;
      }
      case 13: {
        IommuDestroy a{.size = 0, .id = id()};
        (void)ioctl(fd(), kIommuDestroy, a);
        break;
      }
      case 14: {
        IommuHwptMarkPreserve a{.size = 0, .hwpt_id = id(), .token = token()};
        (void)ioctl(fd(), kIommuHwptMarkPreserve, a);
        break;
      }
      case 15: {
        IommuHwptRestore a;
        a.token = token();
        a.flags = in_.below(4) == 0 ? in_.below(4) : 0;
        if (ioctl(fd(), kIommuHwptRestore, a)) {
          keep_id(a.out_hwpt_id);
          if (a.out_ioas_id != 0) keep_id(a.out_ioas_id);
        }
        break;
      }
      case 16: {
        VfioBindIommufd a;
        a.iommufd = fd();
        if (ioctl(fd(), kVfioDeviceBindIommufd, a)) keep_id(a.out_devid);
        break;
      }
      case 17:
      case 18: {
        VfioAttachIommufdPt a;
        a.pt_id = id();
        if (ioctl(fd(), kVfioDeviceAttachIommufdPt, a)) keep_id(a.pt_id);
        break;
      }
      case 19: {
        VfioDetachIommufdPt a;
        (void)ioctl(fd(), kVfioDeviceDetachIommufdPt, a);
        break;
      }
      case 20: set_irqs(); break;
      case 21: access(); break;
      case 22: session(kLiveupdateCreateSession); break;
      case 23: session(kLiveupdateRetrieveSession); break;
      case 24:
      case 25: {
        LiveupdatePreserveFd a{.size = 0, .fd = fd(), .token = token()};
        (void)ioctl(fd(), kLiveupdateSessionPreserveFd, a);
        break;
      }
      case 26: {
        LiveupdateRetrieveFd a{.size = 0, .fd = 0, .token = token()};
        if (ioctl(fd(), kLiveupdateSessionRetrieveFd, a)) keep_fd(static_cast<u64>(a.fd));
        break;
      }
      case 27: {
        LiveupdateFinish a;
        (void)ioctl(fd(), kLiveupdateSessionFinish, a);
        break;
      }
      case 28: others(); break;
      case 29: world_.steps().fail_at = world_.steps().allocations + 1 + in_.below(24); break;
      case 30: jump(); break;
      case 31: start_ring(); break;
    }
  }
  u32 flags() {
    const u8 how = in_.byte();
    return how < 0xE0 ? iommu_map::kFixedIova | iommu_map::kReadable | iommu_map::kWriteable : how & 15u;
  }
  void close() {
    const u8 which = in_.byte();
    if (fds().empty()) return;
    const usize i = which % fds().size();
    const u64 closed = fds()[i];
    fds().erase(fds().begin() + static_cast<std::ptrdiff_t>(i));
    (void)sys().close(static_cast<s32>(closed));
  }
  void make_memory() {
    static constexpr u64 kSizes[] = {kPageSize, 0x8000, u64{4} << 20, kPageSize + 5, 0, u64{6} << 20};
    if (memory_ == kMostMemory) return;
    const auto made = sys().memfd_create("fuzz");
    if (!made) return;
    ++memory_;
    keep_fd(static_cast<u64>(*made));
    (void)sys().ftruncate(*made, in_.one_of(kSizes));
    const u8 seals = in_.byte();
    if (seals < 0xC0)
      (void)sys().add_seals(*made, client::Memfd::kSealsForUpdate);
    else
      (void)sys().add_seals(*made, seals & 7);
  }
  void raw() {
    std::byte room[256] = {};
    const u32 cmd = in_.one_of(kCommands);
    const s32 target = fd();
    const std::span<const u8> bytes = in_.take(in_.below(64));
    if (!bytes.empty()) std::memcpy(room, bytes.data(), bytes.size());
    // Where a structure has a pointer the input could name any memory of this process.
    if (cmd == kIommuHwptGetDirtyBitmap || cmd == kIommuIoasIovaRanges || cmd == kIommuGetHwInfo ||
        cmd == kIommuIoasMap) {
      std::memset(room + 16, 0, 16);
    }
    if (cmd == kLiveupdateCreateSession || cmd == kLiveupdateRetrieveSession || cmd == kLiveupdateSessionRetrieveFd)
      return;
    (void)sys().ioctl(target, cmd, room);
  }
  // Memory at an address of the program.
  void map() {
    const s32 memory = fd();
    const u64 bytes = std::min<u64>(length(), u64{4} << 20);
    const auto at = sys().mmap(memory, 0, align_up(std::max<u64>(bytes, 1), kPageSize));
    IommuIoasMap a{
        .size = 0, .flags = flags(), .ioas_id = id(), .reserved = 0, .user_va = 0, .length = bytes, .iova = iova()};
    a.user_va = at ? reinterpret_cast<u64>(*at) : 0x1000;
    (void)ioctl(fd(), kIommuIoasMap, a);
    if (at) retired_.push_back({*at, align_up(std::max<u64>(bytes, 1), kPageSize)});
  }
  // What a program unmapped: nothing is there, and nothing else comes there. A mapping may still name the address, and
  // the kernel read and write there in the name of the program, which is this process.
  struct Retired {
    Retired(std::byte* from, u64 length) : at(from), bytes(length) {
      const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED;
      FUZZ_REQUIRE(mmap(at, bytes, PROT_NONE, flags, -1, 0) == at, "cannot unmap memory");
    }
    Retired(Retired&& o) noexcept : at(std::exchange(o.at, nullptr)), bytes(o.bytes) {}
    Retired& operator=(Retired&&) = delete;
    ~Retired() {
      if (at != nullptr) ::munmap(at, bytes);
    }
    std::byte* at;
    u64 bytes;
  };
  // IOMMU_TEST_CMD: the kernel's own accesses to what programs map.
  void test_op() {
    IommuTestCmd a;
    a.op = in_.below(24);
    const u8 whose = in_.byte();
    a.id = (whose & 1) == 0                           ? id()
           : accesses_.empty() || (whose & 0xF0) == 0 ? static_cast<u32>(fd())
                                                      : accesses_[whose % accesses_.size()];
    room_.resize(kRoom + kPageSize);
    const u64 user = in_.below(8) == 0 ? 0x1000 : align_up(reinterpret_cast<u64>(room_.data()), kPageSize);
    switch (a.op) {
      case iommu_test::kAddReserved: a.set(iommu_test::AddReserved{iova(), length()}); break;
      case iommu_test::kMdCheckMap: a.set(iommu_test::CheckMap{iova(), length(), user}); break;
      case iommu_test::kMdCheckRefs:
        a.set(iommu_test::CheckRefs{.length = length(), .uptr = user, .refs = in_.below(2)});
        break;
      case iommu_test::kCreateAccess: a.set(iommu_test::CreateAccess{.flags = in_.below(3)}); break;
      case iommu_test::kDestroyAccessPages: a.set(iommu_test::DestroyAccessPages{in_.below(4)}); break;
      case iommu_test::kAccessPages: {
        const u8 how = in_.byte();
        const u32 by_area = how >= 0xC0 ? iommu_test::kAccessByArea : 0;
        a.set(iommu_test::AccessPages{.flags = (how & 1u) | by_area,
                                      .iova = by_area != 0 ? (how & 6u) : iova(),
                                      .length = length(),
                                      .uptr = (how & 8) != 0 ? user : 0});
        break;
      }
      case iommu_test::kAccessRw: {
        const u8 how = in_.byte();
        const u32 by_area = how >= 0x80 ? iommu_test::kAccessByArea : 0;
        a.set(iommu_test::AccessRw{.iova = by_area != 0 ? (how & 6u) | u64{in_.byte()} << 34 : iova(),
                                   .length = length() % (kRoom + 1),
                                   .uptr = user,
                                   .flags = (how & 1u) | by_area});
        break;
      }
      case iommu_test::kAccessReplaceIoas: a.set(iommu_test::ReplaceIoas{id()}); break;
      default: a.set(iommu_test::TestDevice{id()}); break;
    }
    if (!ioctl(fd(), kIommuTestCmd, a) || a.op != iommu_test::kCreateAccess) return;
    const s32 access = a.get<iommu_test::CreateAccess>().out_access_fd;
    accesses_.push_back(static_cast<u32>(access));  // or what comes to have its number
    keep_fd(static_cast<u64>(access));
  }
  void set_irqs() {
    struct {
      VfioIrqSet head;
      s32 fds[8] = {};
    } a;
    static constexpr u32 kFlags[] = {
        vfio_irq::kDataEventfd | vfio_irq::kActionTrigger, vfio_irq::kDataNone | vfio_irq::kActionTrigger,
        vfio_irq::kDataBool | vfio_irq::kActionTrigger, vfio_irq::kDataEventfd | vfio_irq::kActionTrigger};
    a.head.flags = in_.one_of(kFlags);
    if (in_.below(16) == 0) a.head.flags = in_.byte();
    a.head.index = in_.below(6);
    a.head.start = in_.below(4);
    a.head.count = in_.below(6);
    for (s32& f : a.fds) f = in_.below(4) == 0 ? -1 : fd();
    a.head.argsz = static_cast<u32>(sizeof a.head + a.head.count * sizeof(s32));
    if (in_.below(16) == 0) a.head.argsz = in_.byte();
    (void)sys().ioctl(fd(), kVfioDeviceSetIrqs, &a);
  }
  // Configuration space and registers of a device.
  void access() {
    std::byte room[64] = {};
    const s32 target = fd();
    const u64 region = in_.below(10);
    u64 at = region << 40 | (in_.number<u16>() & 0x1FFF);
    if (in_.below(16) == 0) at = in_.number<u64>();
    const usize bytes = in_.below(sizeof room + 1);
    if (in_.flag()) {
      const std::span<const u8> from = in_.take(bytes);
      if (!from.empty()) std::memcpy(room, from.data(), from.size());
      (void)sys().pwrite(target, room, bytes, at);
    } else {
      (void)sys().pread(target, room, bytes, at);
    }
  }
  void session(u32 cmd) {
    static constexpr std::string_view kNames[] = {"a", "b", "c", "", "a"};
    LiveupdateSession a;
    const std::string_view name = in_.one_of(kNames);
    std::memcpy(a.name, name.data(), name.size());
    if (in_.below(32) == 0) std::memset(a.name, 'x', sizeof a.name);
    if (ioctl(fd(), cmd, a)) keep_fd(static_cast<u64>(a.fd));
  }
  void others() {
    const u8 which = in_.byte();
    // Beyond what there was when the corpus was made.
    if (which >= 250) return test_op();
    switch (which % 10) {
      case 0: current_ ^= 1; break;
      case 1: world_.board().step_for(500'000); break;
      case 2:
        fds().clear();
        world_.end_program(current_);
        break;
      case 3: {
        const s32 target = fd();
        if (target > 2 && target < host::kFirstKernelFd) (void)sys().ftruncate(target, length() & 0xFF'FFFF);
        break;
      }
      case 4: {
        VfioRegionInfo a;
        a.index = in_.below(11);
        (void)ioctl(fd(), kVfioDeviceGetRegionInfo, a);
        break;
      }
      case 5: {
        VfioIrqInfo a;
        a.index = in_.below(6);
        (void)ioctl(fd(), kVfioDeviceGetIrqInfo, a);
        break;
      }
      case 6: (void)sys().ioctl(fd(), kVfioDeviceReset, nullptr); break;
      case 7: {
        IommuIovaRange ranges[8];
        IommuIoasIovaRanges a{.size = 0,
                              .ioas_id = id(),
                              .num_iovas = in_.below(9),
                              .reserved = 0,
                              .allowed_iovas = 0,
                              .out_iova_alignment = 0};
        a.allowed_iovas = reinterpret_cast<u64>(ranges);
        (void)ioctl(fd(), kIommuIoasIovaRanges, a);
        break;
      }
      case 8: {
        IommuHwInfoVtd info;
        IommuHwInfo a;
        a.dev_id = id();
        a.data_len = in_.below(sizeof info + 1);
        a.data_uptr = reinterpret_cast<u64>(&info);
        (void)ioctl(fd(), kIommuGetHwInfo, a);
        break;
      }
      case 9: {
        LiveupdateGetName a;
        (void)ioctl(fd(), kLiveupdateSessionGetName, a);
        break;
      }
    }
  }
  // A device starts to write, wherever it may.
  void start_ring() {
    const client::VfioDevice device(client::Fd(sys(), fd()));
    struct Release {
      const client::VfioDevice& device;
      ~Release() { const_cast<client::VfioDevice&>(device).fd().release(); }
    } const release{device};
    (void)device.set_bus_master(in_.below(8) != 0);
    const auto streamer = scenarios::Streamer::open(device);
    if (!streamer) return;
    (void)streamer->start(
        in_.below(4), {.base = align_down(iova(), kPageSize), .length = 0x4000, .slots = 8, .seed = 1, .rate = 300});
  }
  void jump() {
    if (jumps_ == kMostJumps) return;
    loaded_ = true;
    const auto at = world_.leave();
    if (!at) return check_gaps();
    ++jumps_;
    for (std::vector<u64>& p : programs_) p.clear();
    ids_.clear();
    memory_ = 0;
    world_.steps().fail_at = 0;
    FUZZ_REQUIRE(world_.boot(version_ = 3 - version_, *at), "the next kernel does not boot on a sound image");
    // A unit of which nothing is preserved is turned off on the way.
    gaps_ = world_.unit().gaps().size();
  }

  // --- what must hold
  // ---------------------------------------------------------------------------------------------------
  void check_gaps() { FUZZ_REQUIRE(world_.unit().gaps().size() == gaps_, "translation went off"); }
  Reach reach() {
    std::vector<board::Bdf> masters;
    for (usize i = 0; i < World::kDevices; ++i) {
      const u64 command =
          world_.board().mmio_read(Phys(board::PciBus::kEcamBase + (u64{world_.bdf(i).value} << 12) + 4), Width::W16);
      if ((command & 4) != 0) masters.push_back(world_.bdf(i));
    }
    return reach_of(world_.board(), masters);
  }
  void check_reach() {
    const Reach now = reach();
    const FrameAllocator& frames = world_.kernel().frames();
    for (const u64 page : now.pages) {
      FUZZ_REQUIRE(frames.in_use(Phys(page), kPageSize), "the unit reads %llx, which is free",
                   static_cast<unsigned long long>(page));
    }
    for (const Reach::Leaf& leaf : now.leaves) {
      FUZZ_REQUIRE(leaf.phys >= World::kRam, "a device reaches kernel memory at %llx",
                   static_cast<unsigned long long>(leaf.phys));
      FUZZ_REQUIRE(world_.board().memory().backed(leaf.phys, leaf.bytes), "a device reaches %llx, where no memory is",
                   static_cast<unsigned long long>(leaf.phys));
    }
  }
  Totals totals() {
    world_.kernel().heap().trim();
    u64 kept = board::read_handover(world_.board().memory(), world_.kernel().kho().outgoing_fdt().value).nodes.size();
    const u64 root = world_.unit().read(0x20, 8) & ~u64{0xFFF};
    for (u64 i = 0; root != 0 && i < kPageSize / 8; ++i) {
      u64 word = 0;
      if (world_.board().memory().load64(root + i * 8, word)) kept += word & 1;
    }
    return {world_.kernel().heap().bytes_in_use(), world_.kernel().frames().totals(), kept};
  }
  void check_nothing_left(const Totals& before) {
    FUZZ_REQUIRE(reach().leaves.empty(), "everything is closed, and a device still reaches memory");
    FUZZ_REQUIRE(world_.board().memory().banks().empty(), "everything is closed, and a bank is left");
    if (loaded_) return;  // the next kernel stays loaded
    const Totals after = totals();
    FUZZ_REQUIRE(after.heap == before.heap, "%lld bytes of heap are left over",
                 static_cast<long long>(after.heap - before.heap));
    FUZZ_REQUIRE(after.frames.free + after.kept == before.frames.free + before.kept,
                 "frames are left over: %llu free and %llu kept for good, before %llu and %llu",
                 static_cast<unsigned long long>(after.frames.free), static_cast<unsigned long long>(after.kept),
                 static_cast<unsigned long long>(before.frames.free), static_cast<unsigned long long>(before.kept));
  }

  World& world_;
  Input in_;
  u32 version_ = 1;
  usize current_ = 0;
  std::vector<u64> programs_[2];  // descriptors
  std::vector<Retired> retired_;
  static constexpr u64 kRoom = 0x9000;
  std::vector<std::byte> room_;  // of the programs, with a page to align it
  std::vector<u32> ids_;
  std::vector<u32> accesses_;  // that were made
  usize memory_ = 0;
  unsigned jumps_ = 0;
  bool loaded_ = false;
  usize gaps_ = 0;
};

}  // namespace
}  // namespace perdure::fuzz

extern "C" int LLVMFuzzerTestOneInput(const perdure::u8* data, perdure::usize bytes) {
  using namespace perdure::fuzz;
  static World* const worlds[] = {new World({.coherent = true}), new World({.coherent = false}),
                                  new World({.coherent = true, .scalable = true}),
                                  new World({.coherent = false, .scalable = true})};
  static const bool kept = [] {
    for (World* world : worlds) world->keep();
    return true;
  }();
  Input in(data, bytes);
  FUZZ_REQUIRE(kept, "the machine as it is");
  Run(*worlds[in.byte() & 3], in).go();
  return 0;
}
