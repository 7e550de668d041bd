#include "machine/board/board.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <map>
#include <stdexcept>

#include "core/base/scope_guard.h"
#include "machine/board/acpi_tables.h"
#include "machine/board/auditor.h"
#include "machine/board/bridge.h"
#include "machine/board/config_fields.h"
#include "machine/board/edu.h"
#include "machine/board/ioat.h"
#include "machine/board/nvme.h"
#include "machine/board/ohci.h"
#include "machine/board/streamer.h"

namespace perdure::board {
namespace {

constexpr u64 kAcpiAt = 0xE'0000;
constexpr u64 kMessageBase = 0xFEE0'0000;
constexpr u64 kMessageBytes = 0x10'0000;
// GCMD/GSTS (VT-d, 11.4.4): translation enable, and the one-shot commands that must not be repeated.
constexpr u64 kGcmd = 0x18;
constexpr u64 kGsts = 0x1C;
constexpr u32 kTranslationEnable = u32{1} << 31;
constexpr u32 kPersistent = 0x96FF'FFFF;

// The board on whose behalf this thread calls a sink: messages that the sink's own accesses cause wait for it.
thread_local const Board* delivering = nullptr;

u64 steady_ns() {
  return static_cast<u64>(
      std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
          .count());
}

u64 ones(Width width) {
  return ~u64{0} >> (64 - 8 * static_cast<unsigned>(width));
}

bool is_message(u64 address) {
  return address >= kMessageBase && address - kMessageBase < kMessageBytes;
}

// IOMMU units are built with the window's width, so that an address beyond it has reserved bits set.
BoardConfig checked(BoardConfig config) {
  const auto refuse = [](const std::string& what) { throw std::runtime_error("board: " + what); };
  if (config.step_ns == 0) refuse("step_ns is 0; time would stand still");
  for (UnitConfig& u : config.units) {
    u.model.haw = static_cast<u8>(config.window_log2);
    const u64 base = u.model.base;
    if (base % kPageSize != 0 || base < PciBus::kBarWindow.end() || base + kPageSize > PhysicalMemory::kHoleEnd ||
        ranges_overlap(base, kPageSize, kMessageBase, kMessageBytes)) {
      refuse("an IOMMU unit's registers must be a page in [0xfe000000, 4 GiB) outside the interrupt range");
    }
    for (const UnitConfig& other : config.units) {
      if (&other == &u) continue;
      if (other.model.base == base) refuse("two IOMMU units at one address");
      if (u.include_all && other.include_all && u.segment == other.segment) {
        refuse("only one IOMMU unit of a segment may have include_all");
      }
    }
  }
  for (const DeviceConfig& d : config.devices) {
    const bool leads_beyond = d.kind == DeviceKind::Bridge && d.bridge.secondary > config.last_bus;
    // What is below a VMD has a window of its own.
    if (d.bdf.segment < PciBus::kSegments && (d.bdf.bus() > config.last_bus || leads_beyond)) {
      refuse("a device is, or leads, beyond last_bus");
    }
    if (const u64 memory = d.streamer.memory;
        d.kind == DeviceKind::Streamer && memory != 0 &&
        (!is_pow2(memory) || memory < kPageSize || memory > Streamer::kMaxMemory)) {
      refuse("a streamer's memory is a power of two from 4 KiB to 16 MiB");
    }
    if (d.kind == DeviceKind::Streamer && (d.streamer.rings < 1 || d.streamer.rings > Streamer::kMaxRings ||
                                           d.streamer.vectors < 1 || d.streamer.vectors > 64)) {
      refuse("a streamer has 1 to 16 rings and 1 to 64 vectors");
    }
    if (d.kind == DeviceKind::Edu && !is_pow2(d.edu.dma_mask + 1) && d.edu.dma_mask != ~u64{0}) {
      refuse("an edu's dma_mask must be a number of ones");
    }
    if (d.kind == DeviceKind::Ioat && (d.ioat.transfer_log2 < 12 || d.ioat.transfer_log2 > 31 ||
                                       d.ioat.bytes_per_second == 0 || d.ioat.bytes_per_second > 1'000'000'000'000)) {
      refuse("an ioat has transfer_log2 12 to 31 and copies 1 to 10^12 bytes_per_second");
    }
    if (d.kind == DeviceKind::Nvme && (d.nvme.queues < 1 || d.nvme.queues > Nvme::kMaxQueues ||
                                       d.nvme.disk_bytes == 0 || d.nvme.disk_bytes % kPageSize != 0 ||
                                       d.nvme.disk_bytes > (u64{1} << 50) || d.nvme.command_ns > 1'000'000'000'000)) {
      refuse("an nvme has a disk of whole pages of 4 KiB, up to 1024 TiB, 1 to 63 queues, and command_ns up to 10^12");
    }
    if (d.virtual_functions > 7 ||
        (d.virtual_functions != 0 && (d.kind == DeviceKind::Vmd || d.kind == DeviceKind::Bridge || d.ari || d.ats))) {
      refuse("an endpoint without ats and ari has up to 7 virtual functions; others have none");
    }
    if (d.kind == DeviceKind::Vmd &&
        (!is_pow2(d.vmd.buses) || d.vmd.buses < 2 || d.vmd.buses > 256 || !is_pow2(d.vmd.window) ||
         d.vmd.window < (u64{1} << 20) || d.vmd.window > (u64{256} << 20) || d.vmd.segment < PciBus::kSegments)) {
      refuse("a VMD has 2 to 256 buses and a window of 1 to 256 MiB, powers of two, and a segment of its own from " +
             std::to_string(PciBus::kSegments) + " on");
    }
  }
  return config;
}

std::vector<PhysRange> reserved_ranges(const BoardConfig& config) {
  std::vector<PhysRange> all;
  for (const ReservedConfig& r : config.reserved) {
    // Several functions may share a region.
    const PhysRange range{r.base, r.length};
    if (std::find(all.begin(), all.end(), range) == all.end()) all.push_back(range);
  }
  return all;
}

}  // namespace

struct Board::Unit final : public IommuEnvironment {
  Unit(Board& owner, const UnitConfig& config, WriteBackShadow* shadow)
      : board(owner), model(std::make_unique<IommuModel>(config.model, owner.memory_, *this, shadow)) {}

  u64 now_ns() override { return board.now_ns(); }
  void msi(u64 address, u32 data) override { board.queue_message(address, data); }
  void translation_enabled(bool, u64) override {}

  Board& board;
  std::unique_ptr<IommuModel> model;
};

Board::Board(BoardConfig config)
    : config_(checked(std::move(config))),
      memory_(config_.window_log2, config_.ram_bytes, reserved_ranges(config_)),
      bus_(*this, config_.trace_limit),
      random_(config_.seed) {
  const bool needs_shadow = std::any_of(config_.units.begin(), config_.units.end(), [](const UnitConfig& u) {
    return !u.model.coherent || (u.model.scalable && !u.model.scalable_coherent);
  });
  if (needs_shadow) shadow_ = std::make_unique<WriteBackShadow>(memory_);
  for (const UnitConfig& u : config_.units) units_.push_back(std::make_unique<Unit>(*this, u, shadow_.get()));
  build_devices();
  write_tables();
}

Board::~Board() {
  stop();
}

IommuModel& Board::unit(usize i) {
  return *units_[i]->model;
}

namespace {

std::unique_ptr<Device> make_device(const DeviceConfig& d, const std::string& name, Bdf at, DeviceBus& bus) {
  switch (d.kind) {
    case DeviceKind::Edu: return std::make_unique<Edu>(name, at, d.edu, bus);
    case DeviceKind::Streamer: return std::make_unique<Streamer>(name, at, d.streamer, bus);
    case DeviceKind::Bridge: return std::make_unique<Bridge>(name, at, d.bridge, bus);
    case DeviceKind::Ohci: return std::make_unique<Ohci>(name, at, bus);
    case DeviceKind::Ioat: return std::make_unique<Ioat>(name, at, d.ioat, bus);
    case DeviceKind::Nvme: return std::make_unique<Nvme>(name, at, d.nvme, bus);
    case DeviceKind::Vmd: return std::make_unique<Vmd>(name, at, d.vmd, bus);
  }
  throw std::runtime_error("board: no such kind of device");
}

std::string kind_name(const DeviceConfig& d) {
  for (const auto& known : fields::kKinds) {
    if (known.value.kind == d.kind && d.kind != DeviceKind::Bridge) return std::string(known.name);
  }
  return "bridge";
}

}  // namespace

void Board::build_devices() {
  DeviceBus& bus = *this;
  for (const DeviceConfig& d : config_.devices) {
    const std::string name = d.name.empty() ? kind_name(d) + " " + d.bdf.to_string() : d.name;
    bus_.add(make_device(d, name, d.bdf, bus), {.acs = d.acs, .ats = d.ats, .class_code = d.class_code});
    if (d.ari) bus_.join_ari_device(d.bdf);
    if (d.virtual_functions == 0) continue;
    std::vector<std::unique_ptr<Device>> virtual_functions;
    for (unsigned n = 0; n < d.virtual_functions; ++n) {
      const Bdf at(static_cast<u16>(d.bdf.value + 1 + n), d.bdf.segment);
      virtual_functions.push_back(make_device(d, name + " virtual function " + std::to_string(n), at, bus));
    }
    bus_.add_virtual(*bus_.by_home(d.bdf), std::move(virtual_functions));
  }
  bus_.check();
  if (config_.firmware_assigns_bars) bus_.assign_addresses(memory_.bar_window());
  route_devices();
}

// Which unit translates whom: whom it names, or who is below a bridge that it names, in the order of the units; then
// include_all.
void Board::route_devices() {
  const auto named = [this](Bdf bdf, u16 segment, const std::string& by) {
    const Device* d = bus_.by_home(bdf);
    if (d == nullptr) throw std::runtime_error("board: " + by + " names " + bdf.to_string() + ", no device there");
    if (bdf.segment != segment)
      throw std::runtime_error("board: " + by + " names " + bdf.to_string() + ", of another segment");
    if (d->vmd() != nullptr) {
      throw std::runtime_error("board: " + by + " names " + bdf.to_string() +
                               ", which firmware does not know: name its VMD");
    }
    return d;
  };
  const auto bridge_named = [&](Bdf bdf, u16 segment, const std::string& by) {
    const Device* d = named(bdf, segment, by);
    if (dynamic_cast<const Bridge*>(d) == nullptr) {
      throw std::runtime_error("board: " + by + " names " + bdf.to_string() + " as a bridge, which it is not");
    }
    return d;
  };
  for (usize i = 0; i < units_.size(); ++i) {
    const UnitConfig& u = config_.units[i];
    for (Bdf bdf : u.endpoints) routes_.try_emplace(named(bdf, u.segment, "an IOMMU unit"), units_[i].get());
    for (Bdf bdf : u.bridges) {
      const Device* const bridge = bridge_named(bdf, u.segment, "an IOMMU unit");
      routes_.try_emplace(bridge, units_[i].get());
      for (usize k = 0; k < bus_.size(); ++k) {
        for (const Device* above = bus_.at(k).parent(); above != nullptr; above = above->parent()) {
          if (above == bridge) routes_.try_emplace(&bus_.at(k), units_[i].get());
        }
      }
    }
  }
  for (usize i = 0; i < bus_.size(); ++i) {
    const Device& d = bus_.at(i);
    const auto physical = routes_.find(d.physical());
    if (physical != routes_.end()) routes_.try_emplace(&d, physical->second);
  }
  for (usize i = 0; i < bus_.size(); ++i) {
    const Device& d = bus_.at(i);
    if (d.vmd() != nullptr) continue;
    Unit* rest = nullptr;
    for (usize k = 0; k < units_.size(); ++k) {
      if (config_.units[k].include_all && config_.units[k].segment == d.home().segment) rest = units_[k].get();
    }
    routes_.try_emplace(&d, rest);
  }
  for (usize i = 0; i < bus_.size(); ++i) {
    const Device& d = bus_.at(i);
    if (d.vmd() != nullptr) routes_[&d] = routes_.at(d.vmd());
  }
  for (const ReservedConfig& r : config_.reserved) {
    const std::vector<Bdf>& any = r.endpoints.empty() ? r.bridges : r.endpoints;
    if (any.empty()) throw std::runtime_error("board: a reserved region is for no device");
    for (Bdf bdf : r.endpoints) named(bdf, any[0].segment, "a reserved region");
    for (Bdf bdf : r.bridges) bridge_named(bdf, any[0].segment, "a reserved region");
  }
}

void Board::write_tables() {
  const auto path = [this](Bdf home) {
    std::vector<Bdf> hops;
    for (const Device* d = bus_.by_home(home); d != nullptr; d = d->parent()) hops.insert(hops.begin(), d->home());
    return hops;
  };
  const auto scopes = [&](const std::vector<Bdf>& endpoints, const std::vector<Bdf>& bridges) {
    std::vector<DmarScope> all;
    all.reserve(endpoints.size() + bridges.size());
    for (Bdf bdf : endpoints) all.push_back({false, path(bdf)});
    for (Bdf bdf : bridges) all.push_back({true, path(bdf)});
    return all;
  };
  DmarTable dmar;
  dmar.host_address_width = config_.window_log2;
  for (const UnitConfig& u : config_.units) {
    dmar.units.push_back(
        {u.model.base, u.segment, u.include_all, scopes(u.endpoints, u.bridges), u.proximity, u.model.interrupt_remap});
  }
  for (const ReservedConfig& r : config_.reserved) {
    const u16 segment = (r.endpoints.empty() ? r.bridges : r.endpoints)[0].segment;
    dmar.reserved.push_back({segment, r.base, r.length, scopes(r.endpoints, r.bridges)});
  }
  std::vector<EcamSegment> segments;
  for (u16 segment : bus_.segments()) {
    segments.push_back({segment, PciBus::ecam_base(segment), config_.last_bus});
    std::vector<Bdf> ports;
    std::vector<Bdf> integrated;
    for (const DeviceConfig& d : config_.devices) {
      if (!d.ats || d.bdf.segment != segment) continue;
      const Bdf top = path(d.bdf).front();
      std::vector<Bdf>& list = top == d.bdf ? integrated : ports;
      if (std::find(list.begin(), list.end(), top) == list.end()) list.push_back(top);
    }
    if (!ports.empty()) dmar.ats_ports.push_back({segment, scopes({}, ports)});
    if (!integrated.empty()) dmar.ats_integrated.push_back({segment, scopes(integrated, {})});
  }
  const AcpiImage image = build_acpi(kAcpiAt, dmar, segments);
  if (kAcpiAt + image.bytes.size() > PhysicalMemory::kFirmware || !memory_.write(kAcpiAt, image.bytes)) {
    throw std::runtime_error("board: the ACPI tables do not fit firmware's memory; name fewer scopes");
  }
  rsdp_ = Phys(kAcpiAt);
}

// --- registers -------------------------------------------------------------------------------------------------------

u64 Board::mmio_read(Phys at, Width width) {
  const auto bytes = static_cast<unsigned>(width);
  u64 value = ones(width);
  bool found = false;
  for (const auto& u : units_) {
    const u64 base = u->model->config().base;
    if (at.value < base || at.value - base >= IommuModel::kWindow) continue;
    value = u->model->read(at.value - base, bytes);
    found = true;
    break;
  }
  if (!found) value = bus_.mmio_read(at.value, bytes).value_or(value);
  flush_messages();
  return value & ones(width);
}

void Board::mmio_write(Phys at, Width width, u64 value) {
  const auto bytes = static_cast<unsigned>(width);
  value &= ones(width);
  bool found = false;
  for (const auto& u : units_) {
    const u64 base = u->model->config().base;
    if (at.value < base || at.value - base >= IommuModel::kWindow) continue;
    u->model->write(at.value - base, bytes, value);
    found = true;
    break;
  }
  if (!found) bus_.mmio_write(at.value, bytes, value);
  flush_messages();
}

void Board::write_back(Phys at, u64 bytes) {
  if (shadow_) shadow_->write_back(at.value, bytes);
}

Result<void> Board::bank_detach(const Bank& bank) {
  TRY(memory_.detach(bank.base.value));
  if (shadow_) shadow_->forget(bank.base.value, bank.length);
  return {};
}

// --- DMA -------------------------------------------------------------------------------------------------------------

Board::Unit* Board::unit_of(const Device& device) const {
  const auto it = routes_.find(&device);
  return it == routes_.end() ? nullptr : it->second;
}

// `Byte`: const for writes to memory. The caller is the device, which holds its lock.
template <class Byte>
DmaResult Board::dma(Device& device, u64 iova, std::span<Byte> data) NO_THREAD_SAFETY_ANALYSIS {
  constexpr bool kWrite = std::is_const_v<Byte>;
  DmaResult result;
  if (!device.may_master()) {
    result.cause = Cause::BusMasterOff;
    return result;
  }
  Unit* unit = unit_of(device);
  Judgement judgement = Judgement::Right;
  for (usize at = 0; at < data.size();) {
    const u64 length = data.size() - at;
    Translation t;
    if (unit != nullptr) {
      t = unit->model->translate(device.requester(kWrite).value, iova + at, length,
                                 kWrite ? Access::Write : Access::Read);
    } else {
      t.verdict = kWrite && is_message(iova + at) ? Verdict::Interrupt : Verdict::Untranslated;
      t.phys = iova + at;
      t.length = length;
    }
    if (!t.ok() || t.length == 0) {
      result.cause = t.fault != 0 ? Cause::Faulted : Cause::Blocked;
      result.fault = t.fault;
      return result;
    }
    // The interrupt range is no memory: one doubleword is a message, like those that devices mean to send, and anything
    // else is lost.
    if (t.verdict == Verdict::Interrupt) {
      if constexpr (kWrite) {
        u32 word = 0;
        if (data.size() != sizeof(word) || iova % sizeof(word) != 0) return result;
        std::memcpy(&word, data.data(), sizeof(word));
        send_message(device, iova, word);
        result.done = true;
      }
      return result;
    }
    const u64 piece = std::min(length, t.length);
    bool moved = false;
    if constexpr (kWrite) {
      moved = memory_.write(t.phys, data.subspan(at, piece));
    } else {
      moved = memory_.read(t.phys, data.subspan(at, piece));
    }
    if (!moved) {
      result.cause = Cause::Unbacked;
      return result;
    }
    if (at == 0) result.phys = t.phys;
    if (judgement == Judgement::Right) judgement = judge(device.ledger(), iova + at, {t.phys, piece}, kWrite);
    at += piece;
  }
  result.done = true;
  PhaseResult& now = device.ledger().now();
  if (judgement == Judgement::Undeclared) ++now.undeclared;
  if (judgement == Judgement::Misdirected) ++now.misdirected;
  return result;
}

DmaResult Board::dma_write(Device& device, u64 iova, std::span<const std::byte> data) {
  return dma(device, iova, data);
}

DmaResult Board::dma_read(Device& device, u64 iova, std::span<std::byte> data) {
  return dma(device, iova, data);
}

// Compares where a part of a transfer went with where its program wanted it.
Board::Judgement Board::judge(const DeviceLedger& ledger, u64 iova, PhysRange went, bool write) const {
  for (u64 into = 0; into < went.length;) {
    const std::optional<Place> place = ledger.place_of(iova + into);
    if (!place) return Judgement::Undeclared;
    const bool allowed = write ? place->access != IntentAccess::Read : place->access != IntentAccess::Write;
    const std::optional<Bank> bank = memory_.bank_of(place->host_id, place->offset);
    if (!allowed || !bank) return Judgement::Misdirected;
    const u64 in_bank = place->offset - bank->offset;
    if (bank->base.value + in_bank != went.base + into) return Judgement::Misdirected;
    // An intent may cross from one bank into the next.
    into += std::min({place->length, bank->length - in_bank, went.length - into});
  }
  return Judgement::Right;
}

// --- interrupts ------------------------------------------------------------------------------------------------------

void Board::send_message(Device& device, u64 address, u32 data) {
  Unit* const unit = unit_of(device);
  if (is_message(address)) {
    InterruptMessage m{true, 0, address, data};
    if (unit != nullptr) m = unit->model->interrupt(device.requester(true).value, address, data);
    if (m.passes) {
      queue_message(m.address, m.data);
    } else {
      blocked_messages_.fetch_add(1, std::memory_order_relaxed);
    }
    return;
  }
  // Anywhere else it is a write like any other.
  u64 phys = address;
  bool done = true;
  Translation t;
  if (unit != nullptr) {
    t = unit->model->translate(device.requester(true).value, address, sizeof(data), Access::Write);
    done = t.ok();
    phys = t.phys;
  }
  if (done && memory_.store32(phys, data)) return;
  const DeviceGuard guard(latch_lock_);
  latch_.drop();
}

void Board::queue_message(u64 address, u32 data) {
  const DeviceGuard guard(outbox_lock_);
  outbox_.push_back({address, data});
}

void Board::flush_messages() {
  if (delivering == this) return;
  while (true) {
    std::vector<Message> messages;
    {
      const DeviceGuard guard(outbox_lock_);
      messages.swap(outbox_);
    }
    if (messages.empty()) return;
    const ReadGuard guard(sink_lock_);
    const Board* const outer = std::exchange(delivering, this);
    const ScopeGuard restore([outer] { delivering = outer; });
    for (const Message& m : messages) {
      if (sink_) {
        sink_(m.address, m.data);
      } else {
        give_back(m.address, m.data);
      }
    }
  }
}

void Board::give_back(u64 address, u32 data) {
  const DeviceGuard guard(latch_lock_);
  if (config_.keep_interrupts) {
    latch_.take(address, data);
  } else {
    latch_.drop();
  }
}

InterruptCounts Board::interrupts() const {
  const DeviceGuard guard(latch_lock_);
  return latch_.counts();
}

void Board::set_msi_sink(MsiSink sink) {
  {
    const WriteGuard guard(sink_lock_);
    sink_ = std::move(sink);
    if (!sink_) return;
    // Before anything that comes from now on.
    const DeviceGuard latch_guard(latch_lock_);
    const DeviceGuard outbox_guard(outbox_lock_);
    std::vector<Message> kept;
    latch_.hand_over([&](u64 address, u32 data) { kept.push_back({address, data}); });
    outbox_.insert(outbox_.begin(), kept.begin(), kept.end());
  }
  flush_messages();
}

// --- time ------------------------------------------------------------------------------------------------------------

u64 Board::now_ns() {
  const u64 frozen = frozen_ns_.load(std::memory_order_acquire);
  return frozen != kRunning ? frozen : steady_ns() + offset_ns_.load(std::memory_order_relaxed);
}

void Board::step(u64 n) {
  if (running() || stepping_.test_and_set(std::memory_order_acquire)) return;
  const ScopeGuard done([this] { stepping_.clear(std::memory_order_release); });
  for (; n > 0; --n) step_once();
}

void Board::step_for(u64 ns) {
  if (running() || stepping_.test_and_set(std::memory_order_acquire)) return;
  const ScopeGuard done([this] { stepping_.clear(std::memory_order_release); });
  const u64 until = now_ns() + ns;
  while (now_ns() < until) step_once();
}

void Board::step_once() {
  const u64 now = now_ns() + 1 + random_.next() % (2 * config_.step_ns - 1);
  frozen_ns_.store(now, std::memory_order_release);
  for (const auto& u : units_) u->model->step();
  const usize n = bus_.size();
  if (n != 0) {
    // Who goes first, in which direction, and who does not get its turn this time.
    const u64 dice = random_.next();
    const usize first = dice % n;
    const bool forwards = (dice >> 32 & 1) != 0;
    for (usize i = 0; i < n; ++i) {
      Device& d = bus_.at((first + (forwards ? i : n - i)) % n);
      const DeviceGuard guard(d.lock());
      if (d.next_due_ns() <= now && random_.next() % 8 != 0) d.advance(now);
    }
  }
  flush_messages();
}

void Board::start() {
  if (running()) return;
  offset_ns_.store(now_ns() - steady_ns(), std::memory_order_relaxed);
  frozen_ns_.store(kRunning, std::memory_order_release);
  const usize threads = std::clamp<usize>(config_.threads, 1, std::max<usize>(bus_.size(), 1));
  for (usize i = 0; i < threads; ++i) {
    threads_.emplace_back([this, i, threads](const std::stop_token& stop) { serve(stop, i, threads); });
  }
}

void Board::stop() {
  if (!running()) return;
  threads_.clear();  // asks each to stop, and joins
  frozen_ns_.store(now_ns(), std::memory_order_release);
}

void Board::serve(const std::stop_token& stop, usize first, usize stride) {
  constexpr u64 kShortest = 20'000;
  constexpr u64 kLongest = 1'000'000;
  const auto wakes = [this] {
    const std::scoped_lock lock(wake_mutex_);
    return wakes_;
  };
  while (!stop.stop_requested()) {
    u64 next = ~u64{0};
    const u64 seen = wakes();
    for (usize i = first; i < bus_.size(); i += stride) {
      Device& d = bus_.at(i);
      const DeviceGuard guard(d.lock());
      const u64 now = now_ns();
      if (d.next_due_ns() <= now) d.advance(now);
      next = std::min(next, d.next_due_ns());
    }
    if (first == 0) {
      for (const auto& u : units_) u->model->step();
    }
    flush_messages();
    const u64 now = now_ns();
    const u64 wait = std::clamp(next > now ? next - now : 0, kShortest, kLongest);
    std::unique_lock lock(wake_mutex_);
    wakened_.wait_for(lock, stop, std::chrono::nanoseconds(wait), [&] { return wakes_ != seen; });
  }
}

void Board::wake() {
  if (!running()) return;
  {
    const std::scoped_lock lock(wake_mutex_);
    ++wakes_;
  }
  wakened_.notify_all();
}

// --- the jump --------------------------------------------------------------------------------------------------------

PoisonStats Board::kernel_gone(const HandoverRequest& request) {
  set_msi_sink({});
  memory_.detach_foreign();  // its programs are gone, and it is handed over by nobody
  const std::vector<Bank> before = memory_.banks();
  const PoisonStats stats = poison(memory_, request);
  if (shadow_) {
    // Poison is in memory itself; a walker that does not snoop must not go on seeing what a dead kernel wrote back.
    shadow_->take_poison();
    // CPU caches outlive a kernel; only frames that left the machine are forgotten.
    for (const Bank& b : before) {
      if (!memory_.bank_at(b.base.value)) shadow_->forget(b.base.value, b.length);
    }
  }
  return stats;
}

void Board::break_translation_for(u64 ns) {
  std::vector<Unit*> broken;
  for (const auto& u : units_) {
    const u32 status = static_cast<u32>(u->model->read(kGsts, 4));
    if ((status & kTranslationEnable) == 0) continue;
    u->model->write(kGcmd, 4, status & kPersistent & ~kTranslationEnable);
    broken.push_back(u.get());
  }
  if (running()) {
    std::this_thread::sleep_for(std::chrono::nanoseconds(ns));
  } else {
    step_for(ns);
  }
  for (Unit* u : broken) {
    u->model->write(kGcmd, 4, (static_cast<u32>(u->model->read(kGsts, 4)) & kPersistent) | kTranslationEnable);
  }
  flush_messages();
}

// --- the oracle ------------------------------------------------------------------------------------------------------

Result<void> Board::declare(Bdf device, const Intent& intent) {
  Device* d = bus_.by_home(device);
  if (d == nullptr) return fail(Errno::Enodev);
  const DeviceGuard guard(d->lock());
  if (!d->ledger().declare(intent)) return fail(Errno::Einval);
  return {};
}

Result<void> Board::withdraw(Bdf device, u64 iova, u64 length) {
  Device* d = bus_.by_home(device);
  if (d == nullptr) return fail(Errno::Enodev);
  const DeviceGuard guard(d->lock());
  d->ledger().withdraw(iova, length);
  return {};
}

AuditReport Board::audit() {
  return Auditor(memory_, bus_, now_ns()).run();
}

AuditReport Board::enter_phase(Phase next) {
  AuditReport report = audit();
  for (usize i = 0; i < bus_.size(); ++i) {
    Device& d = bus_.at(i);
    const DeviceGuard guard(d.lock());
    d.ledger().enter_phase(next, now_ns());
  }
  phase_.store(next, std::memory_order_release);
  return report;
}

std::vector<std::string> Board::violations() const {
  std::vector<std::string> all;
  for (usize i = 0; i < units_.size(); ++i) {
    for (const Violation& v : units_[i]->model->violations()) {
      all.push_back("IOMMU unit " + std::to_string(i) + ": " + v.to_string());
    }
  }
  for (const std::string& v : bus_.watch().violations()) all.push_back("PCI: " + v);
  return all;
}

u64 Board::violation_count() const {
  u64 n = bus_.watch().violation_count();
  for (const auto& u : units_) n += u->model->violation_count();
  return n;
}

}  // namespace perdure::board
