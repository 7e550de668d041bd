// Every field of a board's configuration, once, for reading and for writing: `describe(visitor, object)` calls the
// visitor for each with its key and what is allowed. A visitor has
//   flag(key, bool&) · number(key, integer&, lowest, highest) · size(key, u64&) · address(key, u64&)
//   text(key, string&) · name(key, enum&, names) · names(key, {name, bool&}…)
//   numbers(key, names, u8& bits) · range(key, u32&, u32&) · place(key, Bdf&) · places(key, vector<Bdf>&)
#pragma once
#include <array>
#include <span>
#include <string_view>

#include "machine/board/config.h"

namespace perdure::board::fields {

template <class E>
struct Named {
  std::string_view name;
  E value;
};
struct NamedFlag {
  std::string_view name;
  bool* flag;
};
// A bit of a mask, by the number that stands for it.
struct NumberedBit {
  u64 number;
  u8 bit;
};

inline constexpr std::array kPolicies{Named<CachePolicy>{"sticky", CachePolicy::Sticky},
                                      Named<CachePolicy>{"evict", CachePolicy::EvictAlways},
                                      Named<CachePolicy>{"random", CachePolicy::Random}};

struct KindOf {
  DeviceKind kind = DeviceKind::Streamer;
  BridgeKind bridge = BridgeKind::RootPort;
  bool operator==(const KindOf&) const = default;
};
inline constexpr std::array kKinds{
    Named<KindOf>{"streamer", {DeviceKind::Streamer, {}}},
    Named<KindOf>{"edu", {DeviceKind::Edu, {}}},
    Named<KindOf>{"ohci", {DeviceKind::Ohci, {}}},
    Named<KindOf>{"ioat", {DeviceKind::Ioat, {}}},
    Named<KindOf>{"nvme", {DeviceKind::Nvme, {}}},
    Named<KindOf>{"vmd", {DeviceKind::Vmd, {}}},
    Named<KindOf>{"root-port", {DeviceKind::Bridge, BridgeKind::RootPort}},
    Named<KindOf>{"upstream-port", {DeviceKind::Bridge, BridgeKind::UpstreamPort}},
    Named<KindOf>{"downstream-port", {DeviceKind::Bridge, BridgeKind::DownstreamPort}},
    Named<KindOf>{"pcie-to-pci", {DeviceKind::Bridge, BridgeKind::PcieToPci}},
    Named<KindOf>{"pci-to-pci", {DeviceKind::Bridge, BridgeKind::PciToPci}},
};

inline constexpr std::array kLevels{NumberedBit{3, 1}, NumberedBit{4, 2}, NumberedBit{5, 3}};

// Of an aggregate of plain members.
struct Anything {
  template <class T>
  operator T() const;  // NOLINT(google-explicit-constructor): what it is there for
};
template <class T, class... Known>
consteval usize members() {
  if constexpr (requires { T{Known{}..., Anything{}}; }) {
    return members<T, Known..., Anything>();
  } else {
    return sizeof...(Known);
  }
}

// A field that is not described here would be lost in every file: after a change of a structure describe the field,
// then correct the number.
static_assert(members<IommuModelConfig>() == 40);
static_assert(members<IommuQuirks>() == 17);
static_assert(sizeof(UnitConfig) == 152);
static_assert(sizeof(DeviceConfig) == 160);
static_assert(sizeof(ReservedConfig) == 64);
static_assert(sizeof(BoardConfig) == 128);

template <class V>
void describe(V& v, IommuModelConfig& m) {
  v.address("registers", m.base);
  v.numbers("levels", kLevels, m.sagaw);
  v.flag("coherent", m.coherent);
  v.flag("caching_mode", m.caching_mode);
  v.flag("write_buffer", m.rwbf);
  v.name("caches", m.policy, std::span(kPolicies));
  v.range("delay", m.delay.min_steps, m.delay.max_steps);
  v.number("seed", m.seed, 0, ~u64{0});

  v.number("domain_id_bits_code", m.nd, 0, 6);
  v.number("iova_bits", m.mgaw, 30, 57);
  v.flag("pages_2m", m.sslps, 0);
  v.flag("pages_1g", m.sslps, 1);
  v.number("fault_records", m.nfr, 1, 256);
  v.number("max_address_mask", m.mamv, 0, 63);
  v.flag("page_selective", m.psi);
  v.flag("drain_writes", m.dwd);
  v.flag("drain_reads", m.drd);
  v.flag("low_memory_range", m.plmr);
  v.flag("high_memory_range", m.phmr);
  v.flag("root_pointer_flushes", m.esrtps);
  v.flag("queue", m.queued);
  v.flag("device_tlb", m.device_tlb);
  v.flag("pass_through", m.pass_through);
  v.flag("snoop_control", m.snoop_control);
  v.flag("interrupt_remap", m.interrupt_remap);
  v.flag("extended_interrupts", m.extended_interrupts);
  v.flag("interrupt_pointer_flushes", m.esirtps);
  v.flag("abort_mode", m.abort_mode);

  v.flag("scalable", m.scalable);
  v.flag("second_stage", m.second_stage);
  v.flag("second_stage_dirty", m.second_stage_dirty);
  v.flag("first_stage", m.first_stage);
  v.flag("first_stage_5", m.first_stage_5);
  v.flag("first_stage_1g", m.first_stage_1g);
  v.flag("scalable_coherent", m.scalable_coherent);
  v.number("pasid_bits", m.pasid_bits, 1, 20);

  v.number("fault_register_offset", m.fro, 16, 4080);
  v.number("iotlb_register_offset", m.iro, 16, 4080);
  v.flag("step_on_access", m.step_on_access);
  IommuQuirks& q = m.quirks;
  v.names("quirks",
          std::array{NamedFlag{"psi-mask8", &q.psi_mask8}, NamedFlag{"no-perm-check-on-hit", &q.no_perm_check_on_hit},
                     NamedFlag{"srtp-flushes", &q.srtp_flushes}, NamedFlag{"iqa-dw-unreadable", &q.iqa_dw_unreadable},
                     NamedFlag{"qi-disable-needs-wait", &q.qi_disable_needs_wait},
                     NamedFlag{"iqe-needs-tail-write", &q.iqe_needs_tail_write},
                     NamedFlag{"wait-pd-reserved", &q.wait_pd_reserved},
                     NamedFlag{"pv-ones-without-pasid", &q.pv_ones_without_pasid},
                     NamedFlag{"collapse-same-source", &q.collapse_same_source},
                     NamedFlag{"scalable-legacy-codes", &q.scalable_legacy_codes},
                     NamedFlag{"iqa-base-latched", &q.iqa_base_latched},
                     NamedFlag{"pasid-unchecked", &q.pasid_unchecked}, NamedFlag{"queue-unchecked", &q.queue_unchecked},
                     NamedFlag{"fault-event-until-fsts", &q.fault_event_until_fsts},
                     NamedFlag{"device-flush-of-any-did", &q.device_flush_of_any_did},
                     NamedFlag{"interrupts-unrecorded", &q.interrupts_unrecorded},
                     NamedFlag{"compatible-messages-pass", &q.compatible_messages_pass}});
}

template <class V>
void describe(V& v, UnitConfig& u) {
  v.number("segment", u.segment, 0, 0xFFFF);
  v.flag("include_all", u.include_all);
  v.places("endpoints", u.endpoints);
  v.places("bridges", u.bridges);
  v.number("proximity", u.proximity, -1, 0x7FFF'FFFF);
  describe(v, u.model);
}

template <class V>
void describe(V& v, DeviceConfig& d) {
  KindOf kind{d.kind, d.kind == DeviceKind::Bridge ? d.bridge.kind : BridgeKind{}};
  v.name("kind", kind, std::span(kKinds));
  d.kind = kind.kind;
  if (d.kind == DeviceKind::Bridge) d.bridge.kind = kind.bridge;
  v.place("at", d.bdf);
  v.text("name", d.name);
  v.number("class", d.class_code, 0, 0xFF'FFFF);
  switch (d.kind) {
    case DeviceKind::Streamer:
      v.number("rings", d.streamer.rings, 1, 16);
      v.number("vectors", d.streamer.vectors, 1, 64);
      v.size("memory", d.streamer.memory);
      break;
    case DeviceKind::Edu:
      v.address("dma_mask", d.edu.dma_mask);
      v.number("transfer_ns", d.edu.transfer_ns, 0, ~u64{0});
      break;
    case DeviceKind::Ohci: break;
    case DeviceKind::Ioat:
      v.number("transfer_log2", d.ioat.transfer_log2, 12, 31);
      v.number("bytes_per_second", d.ioat.bytes_per_second, 1, 1'000'000'000'000);
      break;
    case DeviceKind::Nvme:
      v.size("disk", d.nvme.disk_bytes);
      v.number("queues", d.nvme.queues, 1, 63);
      v.number("command_ns", d.nvme.command_ns, 0, 1'000'000'000'000);
      v.number("contents", d.nvme.contents, 0, ~u64{0});
      break;
    case DeviceKind::Vmd:
      v.number("behind", d.vmd.segment, 3, 0xFFFF);
      v.number("buses", d.vmd.buses, 2, 256);
      v.size("window", d.vmd.window);
      break;
    case DeviceKind::Bridge:
      v.number("secondary", d.bridge.secondary, 1, 255);
      if (d.bridge.kind == BridgeKind::RootPort || d.bridge.kind == BridgeKind::DownstreamPort) {
        v.flag("acs", d.bridge.acs);
      }
      if (d.bridge.kind == BridgeKind::PcieToPci) v.flag("keeps_ids", d.bridge.keeps_ids);
      return;
  }
  v.flag("acs", d.acs);
  v.flag("ats", d.ats);
  v.flag("ari", d.ari);
  v.number("virtual_functions", d.virtual_functions, 0, 7);
}

template <class V>
void describe(V& v, ReservedConfig& r) {
  v.address("base", r.base);
  v.size("length", r.length);
  v.places("endpoints", r.endpoints);
  v.places("bridges", r.bridges);
}

// Without units, devices and reserved regions, which are arrays of tables.
template <class V>
void describe(V& v, BoardConfig& b) {
  v.number("seed", b.seed, 0, ~u64{0});
  v.number("window_log2", b.window_log2, 33, 46);
  v.size("ram", b.ram_bytes);
  v.number("step_ns", b.step_ns, 1, 1'000'000'000);
  v.number("threads", b.threads, 1, 64);
  v.number("trace_limit", b.trace_limit, 0, ~u64{0});
  v.flag("firmware_assigns_bars", b.firmware_assigns_bars);
  v.flag("keep_interrupts", b.keep_interrupts);
  v.number("last_bus", b.last_bus, 0, 0xFF);
}

}  // namespace perdure::board::fields
