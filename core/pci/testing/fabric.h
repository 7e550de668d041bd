// PCI functions as plain bytes behind an ECAM window, with masks for what software may write, routing by the bridges'
// bus numbers, and a record of every write.
#pragma once
#include <array>
#include <cstring>
#include <functional>
#include <map>
#include <set>
#include <vector>

#include "core/pci/registers.h"
#include "core/pci/source_id.h"
#include "tests/support/test_machine.h"

namespace perdure::test {

class Fabric final : public TestHardware {
 public:
  static constexpr u64 kEcam = 0xb000'0000;

  struct Node {
    std::array<u8, 4096> bytes{};
    std::array<u8, 4096> writable{};
    // Where it sits: below which bridge (null: root bus), and at which device and function.
    Node* parent = nullptr;
    u8 devfn = 0;
    std::function<void(u16 offset)> written;

    template <class T>
    T get(u16 at) const {
      T v;
      std::memcpy(&v, &bytes[at], sizeof v);
      return v;
    }
    template <class T>
    void set(u16 at, T v) {
      std::memcpy(&bytes[at], &v, sizeof v);
    }
    void allow(u16 at, u32 mask, unsigned width) { std::memcpy(&writable[at], &mask, width); }
    // A memory BAR of `size` bytes at `base`.
    void bar(unsigned i, u64 base, u64 size, bool wide = false) {
      const u16 at = static_cast<u16>(0x10 + 4 * i);
      const u64 mask = ~(size - 1);
      set<u32>(at, static_cast<u32>(base) | (wide ? 4 : 0));
      allow(at, static_cast<u32>(mask) & ~15u, 4);
      if (wide) {
        set<u32>(static_cast<u16>(at + 4), static_cast<u32>(base >> 32));
        allow(static_cast<u16>(at + 4), static_cast<u32>(mask >> 32), 4);
      }
    }
    u16 next_cap = 0x40, last_link = 0x34;
    u16 cap(u8 id, u8 length) {
      const u16 at = next_cap;
      bytes[last_link] = static_cast<u8>(at);
      bytes[at] = id;
      last_link = static_cast<u16>(at + 1);
      next_cap = static_cast<u16>(at + ((length + 3) & ~3));
      bytes[6] |= 0x10;
      return at;
    }
    u16 express(u16 port_type, bool flr) {
      const u16 at = cap(0x10, 0x3c);
      set<u16>(static_cast<u16>(at + 2), static_cast<u16>(2 | port_type << 4));
      set<u32>(static_cast<u16>(at + 4), flr ? 1u << 28 : 0);
      allow(static_cast<u16>(at + 8), 0xffff, 2);
      return at;
    }
  };

  struct Write {
    Node* node;
    u16 offset;
    u32 value;
  };

  explicit Fabric(TestMachine& machine) : machine_(machine) {
    machine.hardware = this;
    machine.clock_step_ns = 100'000;
  }
  ~Fabric() { machine_.hardware = nullptr; }

  Node& add(Node* parent, u8 device, u8 function, u16 id) {
    Node& n = *nodes_.emplace_back(std::make_unique<Node>());
    n.parent = parent;
    n.devfn = static_cast<u8>(device << 3 | function);
    n.set<u16>(0, 0x1af4);
    n.set<u16>(2, id);
    n.set<u32>(8, 0x020000'01);
    n.allow(4, 0x0407, 2);
    if (function != 0) at(parent, static_cast<u8>(device << 3)).bytes[0xe] |= 0x80;
    return n;
  }
  Node& bridge(Node* parent, u8 device, u16 id, u8 secondary, u8 subordinate, bool port = true) {
    Node& n = add(parent, device, 0, id);
    n.bytes[0xe] = 1;
    n.set<u32>(8, 0x060400'01);
    n.bytes[0x19] = secondary;
    n.bytes[0x1a] = subordinate;
    n.allow(0x18, 0x00ff'ffff, 4);
    if (port) n.express(4, false);
    return n;
  }

  u64 mmio_read(Phys at, Width width) override {
    u64 value = ~u64{0};
    if (at.value - kEcam < u64{256} << 20) {
      const u64 offset = at.value - kEcam;
      if (Node* n = route(static_cast<u16>(offset >> 12)); n && !n_gone(n)) {
        value = 0;
        std::memcpy(&value, &n->bytes[offset & 0xfff], static_cast<unsigned>(width));
      }
      return value;
    }
    return registers[at.value];
  }
  void mmio_write(Phys at, Width width, u64 value) override {
    if (at.value - kEcam >= u64{256} << 20) {
      registers[at.value] = value;
      register_order.push_back(at.value);
      return;
    }
    const u64 offset = at.value - kEcam;
    Node* n = route(static_cast<u16>(offset >> 12));
    if (!n || offset % static_cast<unsigned>(width) != 0) return;  // hardware takes no crooked ones
    const u16 o = offset & 0xfff;
    writes.push_back({n, o, static_cast<u32>(value)});
    for (unsigned i = 0; i < static_cast<unsigned>(width); ++i) {
      const u8 mask = n->writable[o + i];
      n->bytes[o + i] = static_cast<u8>((n->bytes[o + i] & ~mask) | (static_cast<u8>(value >> 8 * i) & mask));
    }
    if (n->written) n->written(o);
  }
  usize writes_to(const Node& n) const {
    usize count = 0;
    for (const Write& w : writes) count += w.node == &n;
    return count;
  }

  std::vector<Write> writes;
  std::map<u64, u64> registers;  // what lies behind BARs
  std::vector<u64> register_order;
  std::set<Node*> gone;

 private:
  bool n_gone(Node* n) const { return gone.contains(n); }
  Node& at(Node* parent, u8 devfn) {
    for (auto& n : nodes_) {
      if (n->parent == parent && n->devfn == devfn) return *n;
    }
    throw std::runtime_error("function 0 first");
  }
  // As the bridges' numbers say now.
  Node* route(u16 bdf) {
    Node* bridge = nullptr;
    u8 bus = 0;
    const u8 wanted = static_cast<u8>(bdf >> 8);
    while (bus != wanted) {
      Node* next = nullptr;
      for (auto& n : nodes_) {
        const bool leads = n->parent == bridge && (n->bytes[0xe] & 0x7f) == 1 && n->bytes[0x19] > bus &&
                           wanted >= n->bytes[0x19] && wanted <= n->bytes[0x1a];
        if (leads && !next) next = n.get();
      }
      if (!next) return nullptr;
      bridge = next;
      bus = next->bytes[0x19];
    }
    for (auto& n : nodes_) {
      if (n->parent == bridge && n->devfn == (bdf & 0xff)) return n.get();
    }
    return nullptr;
  }

  TestMachine& machine_;
  std::vector<std::unique_ptr<Node>> nodes_;
};

}  // namespace perdure::test
