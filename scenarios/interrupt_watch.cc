#include "scenarios/interrupt_watch.h"

namespace perdure::scenarios {

namespace {
constexpr u32 kMsix = 2;  // VFIO_PCI_MSIX_IRQ_INDEX
constexpr u64 kLongestNs = 2'000'000'000;
}  // namespace

Result<void> InterruptWatch::open(Context& context, const client::VfioDevice& device) {
  s32 numbers[kVectors] = {};
  for (u32 v = 0; v < kVectors; ++v) {
    event_[v] = client::Fd(context.sys, TRY(told(context, "make an eventfd", context.sys.eventfd())));
    numbers[v] = event_[v].number();
    arrived_[v] = 0;
  }
  return told(context, "connect interrupts", device.set_irqs(kMsix, numbers, kVectors));
}

Result<void> InterruptWatch::connect(Context& context, const client::VfioDevice& device) {
  const Streamer streamer = TRY(Streamer::open(device));
  for (u32 v = 0; v < kVectors; ++v) sent_before_[v] = TRY(streamer.messages(v));
  return open(context, device);
}

Result<void> InterruptWatch::interrupt(Context& context, const client::VfioDevice& device, bool on) {
  const Streamer streamer = TRY(told(context, "find streamer", Streamer::open(device)));
  for (u32 v = 0; v < kVectors; ++v) TRY(streamer.set_interrupts(v, on));
  return {};
}

void InterruptWatch::rest(Context& context, u64 ns) {
  const u64 begin = context.sys.now_ns();
  do {
    context.sys.pause();
  } while (context.sys.now_ns() - begin < ns);
}

Result<void> InterruptWatch::collect(Context& context) {
  for (u32 v = 0; v < kVectors; ++v) arrived_[v] += TRY(context.sys.eventfd_read(event_[v].number()));
  return {};
}

Result<void> InterruptWatch::expect_one_each(Context& context) {
  TRY(collect(context));
  for (u32 v = 0; v < kVectors; ++v) {
    if (arrived_[v] != 1) {
      return told(context, arrived_[v] == 0 ? "interrupt of the gap that did not arrive" : "interrupt that came twice",
                  Result<void>(fail(Errno::Eio)));
    }
    arrived_[v] = 0;
  }
  return {};
}

Result<void> InterruptWatch::reconnect(Context& context, std::span<InterruptWatch> watches,
                                       std::span<const client::VfioDevice> devices, u64 rest_ns) {
  for (const client::VfioDevice& device : devices) TRY(interrupt(context, device, false));
  rest(context, rest_ns);
  for (usize i = 0; i < devices.size(); ++i) TRY(watches[i].connect(context, devices[i]));
  rest(context, rest_ns);
  for (InterruptWatch& watch : watches) TRY(watch.expect_one_each(context));
  for (const client::VfioDevice& device : devices) TRY(interrupt(context, device, true));
  return {};
}

Result<void> InterruptWatch::await_sent(Context& context, const client::VfioDevice& device) {
  const Streamer streamer = TRY(Streamer::open(device));
  const u64 begin = context.sys.now_ns();
  for (u32 v = 0; v < kVectors;) {
    const u64 sent = TRY(streamer.messages(v));
    TRY(collect(context));
    if (arrived_[v] < sent - sent_before_[v] && context.sys.now_ns() - begin < kLongestNs) {
      context.sys.pause();
      continue;
    }
    ++v;
  }
  return {};
}

Result<void> InterruptWatch::expect_sent(Context& context, const client::VfioDevice& device) {
  const Streamer streamer = TRY(Streamer::open(device));
  TRY(collect(context));
  for (u32 v = 0; v < kVectors; ++v) {
    const u64 messages = TRY(streamer.messages(v));
    const u64 sent = messages - sent_before_[v];
    if (arrived_[v] != sent || sent == 0) {
      return told(context, arrived_[v] < sent ? "interrupts that were lost" : "interrupts that nobody sent, or none",
                  Result<void>(fail(Errno::Eio)));
    }
  }
  return {};
}

Result<void> InterruptWatch::check(Context& context, std::span<InterruptWatch> watches,
                                   std::span<const client::VfioDevice> devices, u64 rest_ns) {
  for (const client::VfioDevice& device : devices) TRY(interrupt(context, device, false));
  for (usize i = 0; i < devices.size(); ++i) TRY(watches[i].await_sent(context, devices[i]));
  // And none more.
  rest(context, rest_ns);
  for (usize i = 0; i < devices.size(); ++i) TRY(watches[i].expect_sent(context, devices[i]));
  for (const client::VfioDevice& device : devices) TRY(interrupt(context, device, true));
  return {};
}

}  // namespace perdure::scenarios
