// The world of iommufd's tests, with functions on a bus: configuration space, BARs and interrupts that outlive kernels.
#pragma once
#include <deque>

#include "core/iommufd/testing/iommufd_world.h"
#include "core/vfio/handler.h"

namespace perdure::testing {

// Belongs to the test's world, since kernels that are abandoned give no reference back.
class FakeEvent final : public HostEvent {
 public:
  explicit FakeEvent(u64 id) : id_(id) {}
  u64 id() const override { return id_; }
  void signal(u64 n) override { count += n; }
  u64 take() override { return std::exchange(rung, 0); }
  u64 count = 0;  // signalled by the kernel
  u64 rung = 0;   // by the program

 private:
  void dispose() override {}
  u64 id_;
};

// One function: capabilities PM 0x40, MSI 0x50 (64-bit, 4 vectors), MSI-X 0x70 (8 vectors, BAR 2 + 0x800), PCI Express
// 0x80, vendor-specific 0xc0 (8 bytes), sub-system id 0xd0; extended: PASID 0x100, error reporting 0x140,
// vendor-specific 0x190. BAR 0: 64-bit, 64 KiB; BAR 2: 32-bit, 4 KiB; BAR 3: 16 bytes; BAR 4: ports.
struct FakeFunction {
  explicit FakeFunction(SourceId at) : source(at) { power_on(); }

  struct Write {
    u16 offset;
    u32 bytes;
    u32 value;
  };
  static constexpr u64 kBar0Bytes = 0x10000, kBar2Bytes = 0x1000, kBar3Bytes = 16;
  SourceId source;
  u64 bar0 = u64{0x12} << 32;
  u64 bar2 = 0xd0000000;
  u64 bar3 = 0xd1000010;
  std::array<u8, 4096> config{};
  std::map<u64, u64> registers;  // BAR 0, by offset, 8 bytes each
  std::array<u8, kBar2Bytes> bar2_memory{};
  std::vector<Write> writes;          // to configuration space
  std::vector<std::string> accesses;  // to BARs: "r4 0x10"
  unsigned resets = 0;
  bool physical = false;  // can have virtual functions
  bool has_vpd = false;   // vital product data, at 0xe0
  std::array<u32, 64> vpd{};

  template <class T>
  void set(u16 at, T value) {
    std::memcpy(&config[at], &value, sizeof(value));
  }
  template <class T>
  T get(u16 at) const {
    T value;
    std::memcpy(&value, &config[at], sizeof(value));
    return value;
  }
  void power_on() {
    config.fill(0);
    set<u32>(0x00, 0x10011234);
    set<u16>(0x04, 0x0006);
    set<u16>(0x06, 0x0010);
    set<u32>(0x08, 0x02000003);
    set<u32>(0x10, 0x00000004);
    set<u32>(0x14, 0x12);
    set<u32>(0x18, 0xd0000000);
    set<u32>(0x1c, 0xd1000010);
    set<u32>(0x20, 0x0000e001);
    set<u32>(0x2c, 0x11001af4);
    config[0x34] = 0x40;
    set<u16>(0x3c, 0x010b);
    set<u32>(0x40, 0xffc35001);  // PM: events from every state
    set<u16>(0x44, 0x8100);
    set<u32>(0x50, 0x00847005);  // MSI: 64-bit, 4 vectors
    set<u32>(0x70, 0x00078011);  // MSI-X: 8 vectors
    set<u32>(0x74, 0x00000802);
    set<u32>(0x78, 0x00000c02);
    set<u32>(0x80, 0x0002d010);  // PCI Express, version 2
    set<u32>(0x84, 0x10008000);  // resets on demand
    set<u16>(0x88, 0x2810);
    set<u32>(0xd0, 0x0000c00d);   // sub-system id: not shown
    set<u32>(0xc0, 0x00080009);   // vendor-specific, the last one
    set<u32>(0x100, 0x1401001b);  // PASID: not shown
    set<u32>(0x140, 0x19020001);  // error reporting
    set<u32>(0x190, 0x0001000b);  // vendor-specific
    if (has_vpd) {
      config[0xc1] = 0xe0;
      set<u16>(0xe0, 0x0003);
    }
    if (physical) {
      set<u32>(0x190, 0x1f01000b);
      set<u32>(0x1f0, 0x00010010);  // virtual functions
    }
    registers.clear();
  }
  void reset() {
    ++resets;
    const auto bars = get<std::array<u32, 6>>(0x10);
    power_on();
    set(0x10, bars);
    set<u16>(0x04, 0);
  }
  u32 read_config(u16 at, unsigned bytes) const {
    u32 value = 0;
    std::memcpy(&value, &config[at], bytes);
    return value;
  }
  void write_config(u16 at, unsigned bytes, u32 value) {
    writes.push_back({at, bytes, value});
    if (at == 0x88 && (value & 0x8000) != 0) return reset();
    if (has_vpd && at == 0xe2) {
      u32& word = vpd.at((value & 0x7fff) / 4);
      if ((value & 0x8000) != 0) word = get<u32>(0xe4);
      if ((value & 0x8000) == 0) set(0xe4, word);
      value ^= 0x8000;
    }
    for (unsigned i = 0; i < bytes; ++i) {
      const u16 where = static_cast<u16>(at + i);
      const u8 byte = static_cast<u8>(value >> i * 8);
      if (where < 4 || (where >= 6 && where < 12)) continue;
      config[where] = byte;
    }
  }
  bool in_bar(u64 at, u64& offset, unsigned& bar) const {
    if (at >= bar0 && at < bar0 + kBar0Bytes) return offset = at - bar0, bar = 0, true;
    if (at >= bar2 && at < bar2 + kBar2Bytes) return offset = at - bar2, bar = 2, true;
    if (at >= bar3 && at < bar3 + kBar3Bytes) return offset = at - bar3, bar = 3, true;
    return false;
  }
  u32 msix_word(unsigned vector, unsigned word) const {
    u32 value;
    std::memcpy(&value, &bar2_memory[0x800 + vector * 16 + word * 4], 4);
    return value;
  }
  bool msix_masked(unsigned vector) const { return (msix_word(vector, 3) & 1) != 0; }
};

// A bridge with functions below it: its configuration space, and a reset of what is below.
struct FakeBridge {
  std::array<u8, 4096> config{};
  std::vector<FakeFunction*> below;
  unsigned resets = 0;
  FakeBridge() {
    config[0x0e] = 1;
    config[0x04] = 6;
  }
  void write(u16 at, unsigned bytes, u32 value) {
    const bool before = (config[0x3e] & 0x40) != 0;
    std::memcpy(&config[at], &value, bytes);
    if (before || (config[0x3e] & 0x40) == 0) return;
    ++resets;
    for (FakeFunction* f : below) f->reset();
  }
};

class VfioWorld final : public IommufdWorld, public test::TestHardware {
 public:
  static constexpr u64 kEcam = 0xe0000000;

  explicit VfioWorld(u32 version = abi::kVfioPciReadMax) : IommufdWorld(version) {
    vfio_config.write_version = version;
    machine().hardware = this;
    machine().clock_step_ns = 5'000'000;
    boot_vfio();
  }
  ~VfioWorld() {
    task.exit();
    forget_session();
    vfio_handler.destroy();
    vfio.destroy();
    function_a.destroy();
    function_b.destroy();
    function_c.destroy();
    function_d.destroy();
    bridge.destroy();
    config.destroy();
    pci_live.forget();
  }

  // `pci_records`: of the former kernel, 0: none. A function they name is not asked how large its BARs are.
  void boot_vfio(u64 pci_records = 0) {
    pci_live.make(iommu.kho(), vfio_config.write_version);
    if (pci_records != 0) {
      EXPECT_TRUE(pci_live->load(pci_records));
    }
    Vec<acpi::EcamWindow> windows(heap());
    EXPECT_TRUE(windows.push_back({Phys(kEcam), 0, 0, 255}));
    config.make(machine(), std::move(windows));
    function_a.make(*config, a0, nullptr);
    function_b.make(*config, b0, nullptr);
    for (pci::Function* f : {&*function_a, &*function_b}) {
      if (pci_live->identify(*f) != pci::Inherited::No) continue;
      f->set_bar_size(0, FakeFunction::kBar0Bytes);
      f->set_bar_size(2, FakeFunction::kBar2Bytes);
      f->set_bar_size(3, FakeFunction::kBar3Bytes);
      f->set_bar_size(4, 32);
    }
    vfio.make(*module, *pci_live, vfio_config);
    EXPECT_TRUE(vfio->add_device(*function_a, iommu.device(a0)));
    EXPECT_TRUE(vfio->add_device(*function_b, iommu.device(b0)));
    vfio_handler.make(*vfio);
    pci_data = *pci_live->preserve();
    hw_a.writes.clear();
    hw_b.writes.clear();
  }
  static constexpr SourceId a2 = IommuWorld::a2, bridge_at{0, 0x00e0};
  // vfio2 and vfio3, which a reset of their bus reaches both.
  void add_bus() {
    hw_bridge.below = {&hw_c, &hw_d};
    bridge.make(*config, bridge_at, nullptr);
    function_c.make(*config, a1, &*bridge);
    function_d.make(*config, a2, &*bridge);
    for (pci::Function* f : {&*function_c, &*function_d}) f->set_bar_size(0, FakeFunction::kBar0Bytes);
    EXPECT_TRUE(vfio->add_device(*function_c, iommu.device(a1)));
    EXPECT_TRUE(vfio->add_device(*function_d, iommu.device(a2)));
  }
  // With everything of the kernel; sizes are not known again, as of functions that are left alone.
  void jump_vfio(u64 context_token) {
    const u64 records = *pci_live->freeze(pci_data);
    vfio_handler.forget();
    vfio.forget();
    pci_live.forget();
    function_a.forget();
    function_b.forget();
    config.forget();
    for (auto& [data, sink] : irqs) sink = nullptr;  // nobody listens any more
    IommufdWorld::jump(context_token);
    boot_vfio(records);
  }

  s32 open_device(u32 index = 0) {
    Result<Ref<File>> file = vfio->open(index);
    EXPECT_TRUE(file);
    return task.add(*file);
  }
  vfio::VfioFile& device_file(s32 fd) { return *file_cast<vfio::VfioFile>(task.files.at(fd).get()); }
  template <class T>
  Result<void> device_call(s32 fd, u32 command, T& cmd) {
    return call(fd, command, cmd);
  }
  Result<u32> bind_device(s32 fd, s32 iommufd) {
    uapi::VfioBindIommufd cmd{};
    cmd.argsz = sizeof(cmd);
    cmd.iommufd = iommufd;
    TRY(call(fd, uapi::kVfioDeviceBindIommufd, cmd));
    return cmd.out_devid;
  }
  Result<u32> attach(s32 fd, u32 pt) {
    uapi::VfioAttachIommufdPt cmd{};
    cmd.argsz = sizeof(cmd);
    cmd.pt_id = pt;
    TRY(call(fd, uapi::kVfioDeviceAttachIommufdPt, cmd));
    return cmd.pt_id;
  }
  Result<void> detach(s32 fd) {
    uapi::VfioDetachIommufdPt cmd{};
    cmd.argsz = sizeof(cmd);
    return call(fd, uapi::kVfioDeviceDetachIommufdPt, cmd);
  }
  static u64 region(u32 index) { return vfio::VfioFile::kRegions + (u64{index} << 40); }
  template <class T>
  Result<T> read(s32 fd, u32 region_index, u64 offset) {
    const UserAddr at = task.put(T{});
    const usize bytes = TRY(task.files.at(fd)->read(task, at, sizeof(T), region(region_index) + offset));
    EXPECT_EQ(bytes, sizeof(T));
    return task.peek<T>(at);
  }
  template <class T>
  Result<void> write(s32 fd, u32 region_index, u64 offset, T value) {
    const UserAddr at = task.put(value);
    TRY(task.files.at(fd)->write(task, at, sizeof(T), region(region_index) + offset));
    return {};
  }
  template <class T>
  T config_read(s32 fd, u64 offset) {
    return *read<T>(fd, uapi::vfio_region::kConfig, offset);
  }
  template <class T>
  void config_write(s32 fd, u64 offset, T value) {
    EXPECT_TRUE(write<T>(fd, uapi::vfio_region::kConfig, offset, value));
  }
  // --- groups and containers
  // -----------------------------------------------------------------------------------------
  u32 group_id(SourceId source) { return iommu.group(source).id(); }
  s32 open_group(SourceId source = a0) {
    Result<Ref<File>> file = vfio->open_group(group_id(source));
    EXPECT_TRUE(file);
    return task.add(*file);
  }
  s32 open_container() { return task.add(*vfio->open_container()); }
  Result<u64> ioctl(s32 fd, u32 command, UserAddr arg) { return task.files.at(fd)->ioctl(task, command, arg); }
  Result<void> set_container(s32 group, s32 container) {
    TRY(ioctl(group, uapi::kVfioGroupSetContainer, task.put(container)));
    return {};
  }
  Result<void> unset_container(s32 group) {
    TRY(ioctl(group, uapi::kVfioGroupUnsetContainer, UserAddr(0)));
    return {};
  }
  Result<u32> status(s32 group) {
    uapi::VfioGroupStatus cmd{.argsz = sizeof(cmd), .flags = 77};
    TRY(call(group, uapi::kVfioGroupGetStatus, cmd));
    return cmd.flags;
  }
  UserAddr text(std::string_view what) {
    const UserAddr at = task.allocate(what.size() + 1);
    for (usize i = 0; i < what.size(); ++i) task.poke(at + i, what[i]);
    return at;
  }
  Result<s32> device_fd(s32 group, std::string_view name) {
    const u64 fd = TRY(ioctl(group, uapi::kVfioGroupGetDeviceFd, text(name)));
    return static_cast<s32>(fd);
  }
  Result<void> set_iommu(s32 container, u64 type) {
    TRY(ioctl(container, uapi::kVfioSetIommu, UserAddr(type)));
    return {};
  }
  Result<void> map_dma(s32 container, u64 va, u64 iova, u64 size, u32 flags = 3) {
    uapi::VfioDmaMap cmd{.argsz = sizeof(cmd), .flags = flags, .vaddr = va, .iova = iova, .size = size};
    return call(container, uapi::kVfioIommuMapDma, cmd);
  }
  // What was unmapped; `told`: what was written back, on failure, too.
  Result<u64> unmap_dma(s32 container, u64 iova, u64 size, u32 flags = 0, u64* told = nullptr) {
    uapi::VfioDmaUnmap cmd{.argsz = sizeof(cmd), .flags = flags, .iova = iova, .size = size};
    const Result<void> done = call(container, uapi::kVfioIommuUnmapDma, cmd);
    if (told) *told = cmd.size;
    if (!done) return fail(done.error());
    return cmd.size;
  }

  struct Event {
    Ref<FakeEvent> host;
    s32 fd = -1;
  };
  Event event() {
    Event e;
    e.host = Ref<FakeEvent>(&events.emplace_back(events.size() + 1));
    e.fd = task.add(*files->event(e.host));
    return e;
  }
  // `data`: bytes or descriptors, as the flags say.
  template <class T = s32>
  Result<void> set_irqs(s32 fd, u32 flags, u32 index, u32 start, u32 count, const std::vector<T>& data = {}) {
    const u32 argsz = static_cast<u32>(sizeof(uapi::VfioIrqSet) + data.size() * sizeof(T));
    const UserAddr at = task.allocate(argsz);
    task.poke(at, uapi::VfioIrqSet{argsz, flags, index, start, count});
    for (usize i = 0; i < data.size(); ++i) task.poke(at + sizeof(uapi::VfioIrqSet) + i * sizeof(T), data[i]);
    TRY(task.files.at(fd)->ioctl(task, uapi::kVfioDeviceSetIrqs, at));
    return {};
  }

  // --- one update
  // -----------------------------------------------------------------------------------------------------
  u64 vfio_record = 0;
  luo::FileState vfio_state(u64 token, File* of = nullptr) {
    luo::FileState s = state(token, of);
    s.data = vfio_record;
    return s;
  }
  Result<void> preserve_device(s32 fd, u64 token) {
    luo::FileState s = vfio_state(token, task.files.at(fd).get());
    TRY(vfio_handler->preserve(s));
    vfio_record = s.data;
    session->files[token] = task.files.at(fd);
    return {};
  }
  void unpreserve_device(s32 fd, u64 token) {
    session->files.erase(token);
    luo::FileState s = vfio_state(token, task.files.at(fd).get());
    vfio_handler->unpreserve(s);
  }
  void freeze_device(u64 token) {
    luo::FileState s = vfio_state(token, session->files.at(token).get());
    ASSERT_TRUE(vfio_handler->freeze(s));
  }
  Result<s32> retrieve_device(u64 token) {
    luo::FileState s = vfio_state(token);
    Ref<File> file = TRY(vfio_handler->retrieve(s));
    session->files[token] = file;
    return task.add(std::move(file));
  }
  bool can_finish_device(s32 fd, u64 token, int status) {
    luo::FileState s = vfio_state(token, fd < 0 ? nullptr : task.files.at(fd).get());
    s.retrieve_status = status;
    return vfio_handler->can_finish(s);
  }
  void finish_device(s32 fd, u64 token) {
    luo::FileState s = vfio_state(token, fd < 0 ? nullptr : task.files.at(fd).get());
    vfio_handler->finish(s);
  }

  // --- hardware
  // --------------------------------------------------------------------------------------------------------
  FakeFunction* function_at(u16 bdf) {
    for (FakeFunction* f : {&hw_a, &hw_b, &hw_c, &hw_d}) {
      if (f->source.bdf == bdf) return f;
    }
    return nullptr;
  }
  u64 mmio_read(Phys at, Width width) override {
    const unsigned bytes = static_cast<unsigned>(width);
    if (at.value >= kEcam && at.value < kEcam + (u64{1} << 28)) {
      const u16 bdf = static_cast<u16>((at.value - kEcam) >> 12);
      if (bdf == bridge_at.bdf) {
        u32 value = 0;
        std::memcpy(&value, &hw_bridge.config[at.value & 0xfff], bytes);
        return value;
      }
      FakeFunction* f = function_at(bdf);
      return f ? f->read_config(static_cast<u16>(at.value & 0xfff), bytes) : ~u64{0};
    }
    for (FakeFunction* f : {&hw_a, &hw_b}) {
      u64 offset = 0;
      unsigned bar = 0;
      if (!f->in_bar(at.value, offset, bar)) continue;
      f->accesses.push_back("r" + std::to_string(bytes) + " " + std::to_string(bar) + ":" + std::to_string(offset));
      u64 value = 0;
      if (bar == 2) std::memcpy(&value, &f->bar2_memory[offset], bytes);
      if (bar == 0) value = f->registers[offset & ~u64{7}] >> (offset & 7) * 8;
      return value;
    }
    return ~u64{0};
  }
  void mmio_write(Phys at, Width width, u64 value) override {
    const unsigned bytes = static_cast<unsigned>(width);
    if (at.value >= kEcam && at.value < kEcam + (u64{1} << 28)) {
      const u16 bdf = static_cast<u16>((at.value - kEcam) >> 12);
      if (bdf == bridge_at.bdf) hw_bridge.write(static_cast<u16>(at.value & 0xfff), bytes, static_cast<u32>(value));
      if (FakeFunction* f = function_at(bdf)) {
        f->write_config(static_cast<u16>(at.value & 0xfff), bytes, static_cast<u32>(value));
      }
      return;
    }
    for (FakeFunction* f : {&hw_a, &hw_b}) {
      u64 offset = 0;
      unsigned bar = 0;
      if (!f->in_bar(at.value, offset, bar)) continue;
      f->accesses.push_back("w" + std::to_string(bytes) + " " + std::to_string(bar) + ":" + std::to_string(offset));
      if (bar == 2) std::memcpy(&f->bar2_memory[offset], &value, bytes);
      if (bar == 0) std::memcpy(reinterpret_cast<u8*>(&f->registers[offset & ~u64{7}]) + (offset & 7), &value, bytes);
    }
  }
  Result<MsiTarget> irq_alloc(IrqSink& sink) override {
    if (!machine().counting.may_allocate()) return fail(Errno::Enospc);
    u32 data = 64;
    while (irqs.contains(data)) ++data;
    irqs[data] = &sink;
    return MsiTarget{0xfee00000, data};
  }
  void irq_free(MsiTarget target) override { irqs.erase(target.data); }
  // A vector of the former kernel, which nobody was given meanwhile.
  Result<void> irq_claim(MsiTarget target, IrqSink& sink) override {
    const auto at = irqs.find(target.data);
    if (at == irqs.end() || at->second) return fail(Errno::Eexist);
    at->second = &sink;
    return {};
  }
  // The device sends what its table says.
  void send_msix(const FakeFunction& f, unsigned vector) {
    if ((f.get<u16>(0x72) & 0x8000) == 0 || f.msix_masked(vector)) return;
    send(f.msix_word(vector, 0), f.msix_word(vector, 2));
  }
  void send_msi(const FakeFunction& f, unsigned vector) {
    if ((f.get<u16>(0x52) & 1) != 0) send(f.get<u32>(0x54), f.get<u16>(0x5c) + vector);
  }
  void send(u32 address, u32 data) {
    // In remappable format the data is the entry here.
    if ((address & 0x10) != 0) {
      const auto& entries = iommu.hw_a.interrupts.entries;
      const auto entry = entries.find(data);
      if (entry == entries.end() || !entry->second.present) {
        ++blocked;
        return;
      }
      data = entry->second.target.data;
    }
    const auto at = irqs.find(data);
    if (at != irqs.end() && at->second) at->second->raise();
  }

  // Wires: function a's pin, once a test has connected it.
  bool has_line(const InterruptLine& line) override { return wired && line == InterruptLine{0, a0.bdf, 1}; }
  Result<void> line_connect(const InterruptLine&, IrqSink& sink) override {
    if (line_sink) return fail(Errno::Ebusy);
    line_sink = &sink;
    line_masked = true;
    return {};
  }
  void line_disconnect(const InterruptLine&) override { line_sink = nullptr; }
  void line_mask(const InterruptLine&, bool masked) override {
    line_masked = masked;
    drive_line(asserted);
  }
  void drive_line(bool high) {
    asserted = high;
    if (!asserted || line_masked || !line_sink) return;
    line_masked = true;
    line_sink->raise();
  }
  bool wired = false, asserted = false, line_masked = true;
  IrqSink* line_sink = nullptr;

  FakeFunction hw_a{a0}, hw_b{b0}, hw_c{a1}, hw_d{a2};
  FakeBridge hw_bridge;
  std::deque<FakeEvent> events;
  std::map<u32, IrqSink*> irqs;
  unsigned blocked = 0;  // messages that led nowhere
  vfio::Vfio::Config vfio_config{};
  u64 pci_data = 0;
  test::Forgettable<pci::LiveUpdate> pci_live;
  test::Forgettable<pci::ConfigSpace> config;
  test::Forgettable<pci::Function> function_a, function_b, function_c, function_d, bridge;
  test::Forgettable<vfio::Vfio> vfio;
  test::Forgettable<vfio::VfioHandler> vfio_handler;
};

}  // namespace perdure::testing
