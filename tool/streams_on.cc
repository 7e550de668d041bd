#include "tool/streams_on.h"

#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>

namespace perdure::tool {

namespace {

using board::Bdf;
using board::BoardConfig;
using board::BridgeKind;
using board::DeviceConfig;
using board::DeviceKind;

const DeviceConfig* bridge_to(const BoardConfig& board, Bdf below) {
  for (const DeviceConfig& d : board.devices) {
    const bool leads =
        d.kind == DeviceKind::Bridge && d.bdf.segment == below.segment && d.bridge.secondary == below.bus();
    if (leads && below.bus() != 0) return &d;
  }
  return nullptr;
}

const DeviceConfig* vmd_of(const BoardConfig& board, Bdf at) {
  for (const DeviceConfig& d : board.devices) {
    if (d.kind == DeviceKind::Vmd && d.vmd.segment == at.segment) return &d;
  }
  return nullptr;
}

// Requests from below, or of the function itself, go up and never to a neighbour.
bool redirects(const BoardConfig& board, const DeviceConfig& d) {
  if (d.kind != DeviceKind::Bridge) return d.acs;
  switch (d.bridge.kind) {
    case BridgeKind::RootPort:
    case BridgeKind::DownstreamPort: return d.bridge.acs;
    // What one port of a switch lets through reaches all of it.
    case BridgeKind::UpstreamPort:
      return std::all_of(board.devices.begin(), board.devices.end(),
                         [&](const DeviceConfig& port) { return bridge_to(board, port.bdf) != &d || port.bridge.acs; });
    default: return false;
  }
}

// The function below which nothing is isolated from its neighbours, the device itself at the least: neither from what a
// bridge without redirection of requests carries, nor from functions of the same slot.
Bdf unisolated_below(const BoardConfig& board, const DeviceConfig& device) {
  const DeviceConfig* top = &device;
  for (const DeviceConfig* d = bridge_to(board, device.bdf); d != nullptr; d = bridge_to(board, d->bdf)) {
    if (!redirects(board, *d)) top = d;
  }
  const Bdf slot(top->bdf.bus(), top->bdf.device(), 0, top->bdf.segment);
  for (const DeviceConfig& peer : board.devices) {
    const bool same =
        peer.bdf.segment == slot.segment && peer.bdf.bus() == slot.bus() && peer.bdf.device() == slot.device();
    if (same && !redirects(board, peer)) return slot;
  }
  return top->bdf;
}

void walk(const BoardConfig& board, u16 segment, u8 bus, std::vector<Bdf>& order) {
  for (unsigned devfn = 0; devfn < 256; ++devfn) {
    const Bdf at(static_cast<u16>(bus << 8 | devfn), segment);
    for (const DeviceConfig& d : board.devices) {
      if (d.bdf != at) continue;
      if (d.kind == DeviceKind::Bridge) {
        walk(board, segment, d.bridge.secondary, order);
      } else if (d.kind != DeviceKind::Vmd) {
        order.push_back(at);
        for (unsigned n = 1; n <= d.virtual_functions; ++n) order.emplace_back(static_cast<u16>(at.value + n), segment);
      }
    }
  }
}

}  // namespace

std::string left_behind(const BoardConfig& board, const DeviceConfig& device) {
  if (vmd_of(board, device.bdf)) return "its DMA carries the requester id of a volume management device";
  if (device.ats) return "it can keep translations of its own (ATS)";
  for (const board::ReservedConfig& r : board.reserved) {
    // Firmware lets go of USB and of graphics when an operating system takes over.
    const bool lets_go = device.class_code >> 8 == 0x0C03 || device.class_code >> 16 == 0x03;
    if (!lets_go && std::find(r.endpoints.begin(), r.endpoints.end(), device.bdf) != r.endpoints.end()) {
      return "firmware reserves memory for it";
    }
  }
  const Bdf group = unisolated_below(board, device);
  for (const DeviceConfig& other : board.devices) {
    const bool endpoint = other.kind != DeviceKind::Bridge && other.kind != DeviceKind::Vmd;
    if (!endpoint || &other == &device || unisolated_below(board, other) != group) continue;
    return fmt::format("it is not isolated from {}", other.name.empty() ? other.bdf.to_string() : other.name);
  }
  return {};
}

std::vector<Bdf> vfio_order(const BoardConfig& board) {
  std::vector<Bdf> order;
  std::vector<u16> segments{0};
  for (const DeviceConfig& d : board.devices) segments.push_back(d.bdf.segment);
  std::sort(segments.begin(), segments.end());
  segments.erase(std::unique(segments.begin(), segments.end()), segments.end());
  for (u16 segment : segments) walk(board, segment, 0, order);
  return order;
}

RigConfig streams_on(BoardConfig board, const std::vector<std::vector<std::string>>& domains, u64 memory) {
  RigConfig config;
  config.plan.seed = board.seed;
  config.plan.devices = 0;
  config.plan.domains = 0;
  config.plan.iova_bits = 57;
  for (const board::UnitConfig& unit : board.units) {
    config.plan.iova_bits = std::min<u32>(config.plan.iova_bits, 12 + 9 * unit.model.max_levels());
    config.plan.iova_bits = std::min<u32>(config.plan.iova_bits, unit.model.mgaw);
  }
  const std::vector<Bdf> order = vfio_order(board);
  for (const std::vector<std::string>& names : domains) {
    if (config.plan.domains == scenarios::StreamsPlan::kMostDomains) throw std::runtime_error("too many domains");
    for (const std::string& name : names) {
      const auto d = std::find_if(board.devices.begin(), board.devices.end(), [&](const DeviceConfig& one) {
        return one.kind == DeviceKind::Streamer && (one.name == name || one.bdf.to_string() == name);
      });
      if (d == board.devices.end()) throw std::runtime_error(fmt::format("no streamer is called {}", name));
      d->streamer.rings = std::max(d->streamer.rings, scenarios::Streams::kRings);
      const u32 index = config.plan.devices++;
      if (index == scenarios::StreamsPlan::kMostDevices) throw std::runtime_error("too many devices for one program");
      config.streamed.push_back(d->bdf);
      config.plan.vfio[index] = static_cast<u32>(std::find(order.begin(), order.end(), d->bdf) - order.begin());
      config.plan.domain_of[index] = config.plan.domains;
    }
    config.plan.memory[config.plan.domains++] = memory;
  }
  config.board = std::move(board);
  return config;
}

RigConfig streams_on(BoardConfig board, u64 memory, std::vector<std::string>& left) {
  std::vector<std::vector<std::string>> domains;
  for (const DeviceConfig& d : board.devices) {
    if (d.kind != DeviceKind::Streamer) continue;
    const std::string name = d.name.empty() ? d.bdf.to_string() : d.name;
    const std::string why = left_behind(board, d);
    if (!why.empty()) {
      left.push_back(fmt::format("{}: {}", name, why));
    } else if (domains.size() == scenarios::StreamsPlan::kMostDomains) {
      left.push_back(fmt::format("{}: the program takes no more than {}", name, domains.size()));
    } else {
      domains.push_back({name});
    }
  }
  if (domains.empty()) throw std::runtime_error("no streamer of this board can be preserved");
  const u64 each = std::max(align_down(memory / domains.size(), kGiantPageSize), 4 * kGiantPageSize);
  return streams_on(std::move(board), domains, each);
}

}  // namespace perdure::tool
