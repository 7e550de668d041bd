// The radix tree of preserved blocks, in the form that crosses the jump (format.h). RadixView reads a tree
// that is known to be sound: our own, or one that carve() has checked. RadixTree is the one that this kernel
// builds; its nodes lie outside scratch memory and are not in the tree themselves.
#pragma once
#include "core/base/function_ref.h"
#include "core/kho/format.h"
#include "core/mem/frame_allocator.h"

namespace perdure::kho {

class RadixView {
 public:
  static constexpr u64 kNone = 0;  // no block has this key

  RadixView(const Machine& machine, Phys root) : machine_(&machine), root_(root) {}

  bool contains(u64 key) const;
  // The smallest key in [first, last], kNone if there is none. Skips what is absent a node at a time.
  u64 find(u64 first, u64 last) const;
  // In ascending order of keys: big blocks first, then by address.
  Result<void> each(FunctionRef<Result<void>(u64 key)> visit) const;
  // Every node, children before their parent.
  void each_node(FunctionRef<void(Phys node)> visit) const;
  Phys root() const { return root_; }

 private:
  friend class RadixTree;
  u64* node(Phys at) const { return machine_->virt<u64>(at); }
  void nodes_below(Phys at, unsigned level, FunctionRef<void(Phys)> visit) const;
  const Machine* machine_;
  Phys root_;
};

class RadixTree {
 public:
  explicit RadixTree(FrameAllocator& frames) : frames_(frames), view_(frames.machine(), Phys(0)) {}
  ~RadixTree() { clear(); }
  RadixTree(const RadixTree&) = delete;
  RadixTree& operator=(const RadixTree&) = delete;

  // An empty tree: one node. Enomem.
  Result<void> init();
  // Frees every node.
  void clear();
  // Adding a key that is present is no error: true if it was new. Enomem with nothing changed.
  Result<bool> insert(u64 key);
  // False: it was not there. Nodes stay until clear().
  bool erase(u64 key);

  const RadixView& view() const { return view_; }
  Phys root() const { return view_.root_; }

 private:
  FrameAllocator& frames_;
  RadixView view_;
};

}  // namespace perdure::kho
