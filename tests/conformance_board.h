// A board for the list of behaviours: three edu devices as probes, messages kept by vector.
#pragma once
#include <array>
#include <memory>

#include "conformance/bench.h"
#include "machine/board/board.h"

namespace perdure::conformance {

class BoardHardware final : public Hardware {
 public:
  explicit BoardHardware(const board::IommuModelConfig& model) : board_(config(model)) {
    board_.set_msi_sink([this](u64 address, u32 data) {
      if (address >> 20 == 0xFEE) came_[data & 0xFF] = true;
    });
    unit = Phys(model.base);
    direct_map = board_.direct_map();
    memory = Phys(16 << 20);
    memory_bytes = 24 << 20;
    keeps = model.policy == board::CachePolicy::Sticky;
    for (const board::Bdf bdf : kProbes) {
      const Phys config = Phys(kEcam + (u64{bdf.value} << 12));
      board_.mmio_write(config + 4, Width::W16, 6);  // memory, bus master
      requesters[requester_count++] = {bdf.value, Phys(board_.mmio_read(config + 0x10, Width::W32) & ~u64{0xF}),
                                       config};
    }
  }

  board::Board& board() { return board_; }
  void forget_messages() { came_ = {}; }

  u64 mmio_read(Phys at, Width width) override { return board_.mmio_read(at, width); }
  void mmio_write(Phys at, Width width, u64 value) override { board_.mmio_write(at, width, value); }
  void write_back(Phys at, u64 bytes) override { board_.write_back(at, bytes); }
  u64 now_ns() override { return board_.now_ns(); }
  void relax() override { board_.step(); }
  MsiTarget message(u8 vector) override { return {0xFEE0'0000, vector}; }
  bool message_came(u8 vector) override { return came_[vector]; }

 private:
  static constexpr u64 kEcam = 0xB000'0000;
  static constexpr board::Bdf kProbes[] = {{0, 3, 0}, {0, 3, 1}, {0, 0x10, 0}};

  static board::BoardConfig config(const board::IommuModelConfig& model) {
    board::BoardConfig c;
    c.window_log2 = 39;
    c.ram_bytes = u64{64} << 20;
    c.units[0].model = model;
    for (const board::Bdf bdf : kProbes) {
      board::DeviceConfig edu;
      edu.kind = board::DeviceKind::Edu;
      edu.bdf = bdf;
      edu.edu.dma_mask = ~u64{0};
      edu.edu.transfer_ns = 20'000;
      c.devices.push_back(edu);
    }
    return c;
  }

  board::Board board_;
  std::array<bool, 256> came_{};
};

}  // namespace perdure::conformance
