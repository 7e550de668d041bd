// Memory of programs (memfds) and their eventfds. On the hosted machine the host has them; here they are made of the
// share of RAM that was set aside when the machine was turned on. Which of it a former kernel's programs had is known
// from the banks of the memory map alone.
#pragma once
#include "core/abi/boot_info.h"
#include "core/base/machine.h"

namespace perdure::metal {

class HostShare;

class ShareMemory final : public HostMemory {
 public:
  ShareMemory(HostShare& home, u64 id, u64 bytes) : home_(home), id_(id), size_(bytes) {}
  u64 id() const override { return id_; }
  u64 size() const override { return size_; }
  u32 seals() const override { return seals_; }
  Result<void> add_seals(u32 seals) override;
  Result<void> resize(u64 bytes) override;
  u64 position() const override { return position_; }
  void set_position(u64 bytes) override { position_ = bytes; }

 private:
  void dispose() override;
  HostShare& home_;
  u64 id_;
  u64 size_;
  u32 seals_ = 0;
  u64 position_ = 0;
};

class ShareEvent final : public HostEvent {
 public:
  ShareEvent(HostShare& home, u64 id) : home_(home), id_(id) {}
  u64 id() const override { return id_; }
  void signal(u64 count) override { count_ += count; }
  // The count since the last call.
  u64 take() override { return __atomic_exchange_n(&count_, u64{0}, __ATOMIC_RELAXED); }

 private:
  void dispose() override;
  HostShare& home_;
  u64 id_;
  u64 count_ = 0;
};

class HostShare {
 public:
  static constexpr usize kMostBanks = 64;
  static constexpr usize kMostMemories = 64;
  static constexpr usize kMostEvents = 128;

  // `map`: of this kernel; what is no bank, or lies outside the share, is not looked at.
  void init(const Machine& machine, Phys base, u64 bytes, std::span<const abi::MemoryMapEntry> map);

  Result<Ref<HostMemory>> create(u64 bytes);                // Enfile
  Result<Ref<HostMemory>> find(u64 id);                     // of a bank; Enoent, Enfile
  Result<Ref<HostEvent>> create_event();                    // Enfile
  Result<Bank> attach(u64 memory, u64 offset, u64 length);  // zeroed; Enomem, Enospc
  void detach(const Bank& bank);
  std::span<const Bank> banks() const { return {banks_, count_}; }  // sorted by base
  u64 bytes_in_use() const;

 private:
  friend class ShareMemory;
  friend class ShareEvent;
  template <class T, usize N>
  struct Places {
    alignas(T) std::byte storage[N][sizeof(T)];
    bool used[N] = {};
    T* at(usize i) { return reinterpret_cast<T*>(storage[i]); }
    std::byte* take() {
      for (usize i = 0; i < N; ++i) {
        if (used[i]) continue;
        used[i] = true;
        return storage[i];
      }
      return nullptr;
    }
    void give_back(const void* object) {
      used[static_cast<usize>(static_cast<const std::byte*>(object) - storage[0]) / sizeof(T)] = false;
    }
  };
  u64 free_place(u64 length, u64 alignment) const;  // 0: none
  void insert(const Bank& bank);

  const Machine* machine_ = nullptr;
  Phys base_;
  u64 bytes_ = 0;
  u64 next_id_ = 1;
  Bank banks_[kMostBanks] = {};
  usize count_ = 0;
  Places<ShareMemory, kMostMemories> memories_;
  Places<ShareEvent, kMostEvents> events_;
};

}  // namespace perdure::metal
